"""Algorithm 1 on MDPs: a twin in plain NumPy on the same streams, and the laws of a first step."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numba import njit

from support.mdp_cases import PROBLEMS, climb, objective, policy_of, start, values
from ustat_grpo import Constant, Decay, Grpo, Oracle, StdNormalised, Vanilla, laws
from ustat_grpo.compiled.draws import alias_tables, draw_prompts
from ustat_grpo.compiled.rng import draw_key, stream_of, substream, word_at
from ustat_grpo.environments.mdp_moments import snapshot
from ustat_grpo.environments.policies import tabular_softmax
from ustat_grpo.estimators import Shrinkage, SideInformation

# The twin: one run in plain NumPy, an episode, a step and a score at a time.


@njit
def words(key, run, iteration, slot, member, count):
    """The random words of an episode."""
    slot_key = substream(substream(substream(substream(key, run), iteration), 1), slot)
    stream = stream_of(substream(slot_key, member))
    return [word_at(stream, position) for position in range(count)]


@njit
def start_numbers(key, run, iteration, aliases, count):
    """The numbers of the start states of a minibatch."""
    stream = stream_of(substream(substream(substream(key, run), iteration), 0))
    prompts = np.empty(count, np.int64)
    draw_prompts(stream, aliases, prompts)
    return prompts


def episode(mdp, phi, probs, state, numbers):
    """Return Z and W."""
    total, score = 0.0, np.zeros((phi.shape[1], mdp.num_actions))
    for time in range(mdp.horizon):
        uniform = np.array(numbers[2 * time : 2 * time + 2], dtype=np.uint64) >> np.uint64(11)
        first, second = uniform * 2.0**-53
        action = np.searchsorted(probs[state].cumsum(), first, side="right")
        outcome = np.searchsorted(mdp.probs[state, action].cumsum(), second, side="right")
        score += np.outer(phi[state], np.eye(mdp.num_actions)[action] - probs[state])
        total += mdp.discount**time * mdp.rewards[state, action, outcome]
        if mdp.terminated[state, action, outcome]:
            break
        state = mdp.next_state[state, action, outcome]
    return total, score.ravel()


def twin(name, estimator, *, run, batch_size, group_size, rates, seed=0):
    """θ after each iteration of one run."""
    (mdp, features), theta, path = PROBLEMS[name], start(name), []
    key = draw_key(np.random.default_rng(seed))
    padded = np.zeros((1, 4))
    padded[0, : len(mdp.starts)] = mdp.start_probs
    aliases = alias_tables(padded if len(mdp.starts) > 2 else padded[:, :2])
    for iteration, rate in enumerate(rates):
        phi, probs = policy_of(mdp, features, theta)
        estimate = 0.0
        for slot, x in enumerate(start_numbers(key, run, iteration, aliases, batch_size)):
            state = mdp.starts[x]
            numbers = [words(key, run, iteration, slot, i, 2 * mdp.horizon)
                       for i in range(group_size)]  # fmt: skip
            outputs = [episode(mdp, phi, probs, state, each) for each in numbers]
            rewards, scores = (np.array(part) for part in zip(*outputs, strict=True))
            known = SideInformation(values(mdp, probs)[[state]])
            estimate += estimator.advantages(rewards[None], known)[0] @ scores
        theta = theta + rate * estimate / (batch_size * group_size)
        path.append(theta)
    return np.array(path)


TWINS = [
    ("lake", Grpo(), {}), ("lake", Oracle(), {}), ("lake", StdNormalised(), {}),
    ("lake, features", StdNormalised(), {"group_size": 5}),
    ("lake, discounted", Grpo(), {"batch_size": 3}), ("random", Oracle(), {}),
    ("random", Shrinkage(0.4, target=0.7), {"group_size": 2}),
    ("random, discounted, features", Grpo(), {"batch_size": 3}),
    ("random, discounted, features", Oracle(), {"group_size": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "estimator", "sizes"), TWINS)
def test_two_iterations_are_those_of_the_twin(name, estimator, sizes):
    """Would catch: a policy or V that is not renewed, a reward after the end, γ a step late."""
    sizes = {"batch_size": 4, "group_size": 3} | sizes
    runs = climb(name, estimator, checkpoints=[1, 2], num_iterations=2, num_runs=3, **sizes)
    mdp, features = PROBLEMS[name]
    for run in (0, 2):
        path = twin(name, estimator, run=run, rates=Decay(3.0, 2.0).rates(2), **sizes)
        np.testing.assert_allclose(runs.theta[run], path, rtol=0, atol=1e-12)
        assert abs(np.diff(path, axis=0)).max() > 1e-3
        expected = [objective(mdp, features, theta) for theta in path]
        np.testing.assert_allclose(runs.objective[run], expected, rtol=0, atol=1e-12)


# One step against the exact gradient and the laws.

RATE, RUNS, BATCH, SIZE = 0.25, 100_000, 2, 3


def one_step(name, estimator, **options):
    """ĝ of many runs, shape (R, d): (θ₁ − θ₀)/η."""
    options = {"num_runs": RUNS, "batch_size": BATCH, "group_size": SIZE} | options
    runs = climb(name, estimator, num_iterations=1, schedule=Constant(RATE), **options)
    return (runs.theta[:, 0] - start(name)) / RATE


def z_scores(sample, expected):
    """(mean over runs − expected)/(its standard error), entry by entry; 0/0 is 0."""
    spread = sample.std(axis=0, ddof=1) / np.sqrt(len(sample))
    return (sample.mean(axis=0) - expected) / np.maximum(spread, 1e-9)


def slopes(mdp, features, theta, eps=1e-4):
    """∇J by central differences, to about 1e-9."""
    steps = eps * np.eye(len(theta))
    up = np.array([objective(mdp, features, theta + step) for step in steps])
    down = np.array([objective(mdp, features, theta - step) for step in steps])
    return (up - down) / (2 * eps)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("estimator", [Grpo(), Oracle()])
def test_the_mean_first_step_is_the_rate_times_the_gradient(name, estimator):
    """Mutants: γ a tenth smaller, a step less of time, equally likely starts."""
    (mdp, features), theta = PROBLEMS[name], start(name)
    steps = one_step(name, estimator)
    assert abs(z_scores(steps, slopes(mdp, features, theta))).max() <= 4
    mutants = [
        {"discount": 0.9 * mdp.discount},
        {"horizon": mdp.horizon - 1},
        {"start_probs": np.full(len(mdp.starts), 1 / len(mdp.starts))},
    ]
    for change in mutants:
        wrong = slopes(dataclasses.replace(mdp, **change), features, theta)
        assert abs(z_scores(steps, wrong)).max() > 4, change


def error_laws(mdp, theta):
    """E‖ĝ − g‖² of a minibatch under each estimator, and wrong laws for GRPO's."""
    moments = snapshot(mdp, tabular_softmax(mdp.num_states, mdp.num_actions), theta).moments
    noise, outputs = moments.noise, BATCH * SIZE
    right = {
        estimator: laws.mse.minibatch(
            law(moments, group_size=SIZE), moments, batch_size=BATCH
        )
        for estimator, law in {
            Grpo(): laws.mse.grpo, Oracle(): laws.mse.oracle, Vanilla(): laws.mse.vanilla
        }.items()
    }  # fmt: skip
    wrong = {
        "G² for G(G − 1)": noise.residual * (1 / (outputs * SIZE) - 1 / (outputs * (SIZE - 1))),
        "no prompt noise": -noise.prompt / BATCH,
        "half the residual": -noise.residual / (2 * outputs * (SIZE - 1)),
    }
    return right, {name: right[Grpo()] + change for name, change in wrong.items()}


@pytest.mark.parametrize("name", ["lake", "lake, discounted", "random"])
def test_the_error_of_the_first_step_is_that_of_the_laws(name):
    """The trace of its covariance: all of these are unbiased. Would catch 2 % of it."""
    mdp, features = PROBLEMS[name]
    center = slopes(mdp, features, start(name))
    right, _ = error_laws(mdp, start(name))
    for estimator, law in right.items():
        errors = ((one_step(name, estimator) - center) ** 2).sum(axis=1)
        assert abs(z_scores(errors, law)) <= 4, estimator


def test_wrong_laws_of_the_first_step_are_rejected():
    """Where starts differ: on the lake c₁ is 0.3 % of c₂, and says nothing."""
    center = slopes(*PROBLEMS["random"], start("random"))
    _, wrong = error_laws(PROBLEMS["random"][0], start("random"))
    errors = ((one_step("random", Grpo()) - center) ** 2).sum(axis=1)
    for mutant, law in wrong.items():
        assert abs(z_scores(errors, law)) > 4, mutant
