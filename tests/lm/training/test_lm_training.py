"""Algorithm 1 on a language model: its step, its randomness, its stops, its checkpoints."""

import os
import pickle
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch

from support.model_runs import changed, model_training
from ustat_grpo.estimators import (
    ConstantBaseline,
    GroupMean,
    Grpo,
    Oracle,
    Shrinkage,
    SideInformation,
    Vanilla,
    gradient,
)
from ustat_grpo.lm import Answers, Prompts, Rollouts, Transformer, TransformerShape, log_probs
from ustat_grpo.lm.questions.rewards import ExactMatch
from ustat_grpo.lm.sampling import sample_groups
from ustat_grpo.lm.scoring import weighted_score
from ustat_grpo.lm.task import Task
from ustat_grpo.lm.training.model_training import OPTIMIZERS, AdamW, ModelTraining
from ustat_grpo.lm.training.policy_gradient import Alone, policy_gradients
from ustat_grpo.lm.training.training import load_state, run_rng, save_state, train
from ustat_grpo.optimization.regions import Box
from ustat_grpo.optimization.schedules import Constant, Decay

VOCABULARY, END = 4, 1
PROMPTS = Prompts.of([[2, 3, 2], [3], [0, 2], [3, 3]], pad_token=0)
SOLUTIONS = Answers.of(
    PROMPTS, [torch.tensor(each) for each in ([2, END], [3, END], [END], [0, END])]
)
MATCH = ExactMatch(SOLUTIONS)


def tiny(seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    shape = TransformerShape(VOCABULARY, 6, width=8, num_heads=2, hidden_width=16, num_layers=1)
    return Transformer(shape).double()


def solution_probs(model, rows=slice(None)) -> torch.Tensor:
    return log_probs(model, SOLUTIONS)[rows].sum(dim=-1).exp()


def accuracy(model) -> dict[str, float]:
    with torch.no_grad():
        return {"accuracy": float(solution_probs(model).mean())}


def graded(rollouts: Rollouts, questions: torch.Tensor) -> torch.Tensor:
    """Rewards of many levels, some outputs unscorable: those that begin with a 3."""
    code = (rollouts.outputs * rollouts.mask * torch.tensor([1, 4])).sum(dim=-1)
    rewards = (code + questions[:, None]).double().sin()
    return rewards.masked_fill(rollouts.outputs[..., 0] == 3, torch.nan)


def config(**changes) -> ModelTraining:
    return model_training(**{"batch_size": 6, "group_size": 4, "num_iterations": 4, **changes})


def theta(model) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for each in model.parameters()])


def per_output_scores(model, rollouts: Rollouts) -> torch.Tensor:
    """W of every output, by one backward pass each; shape (B, G, d)."""
    batch_size, size = rollouts.outputs.shape[:2]
    rows = []
    for place in range(batch_size * size):
        weights = torch.zeros(batch_size * size, dtype=torch.float64)
        weights[place] = 1
        score = weighted_score(model, rollouts, weights.view(batch_size, size))
        rows.append(torch.cat([each.flatten() for each in score]))
    return torch.stack(rows).view(batch_size, size, -1)


ESTIMATORS = [Vanilla(), Grpo(), Oracle(), GroupMean(), ConstantBaseline(0.3), Shrinkage(0.5)]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("reward", [MATCH, graded], ids=["match", "graded"])
def test_gradient_is_the_mean_of_advantage_times_score(estimator, reward):
    """ĝ against `ustat_grpo.gradient` of explicit scores, at the very outputs that were drawn.

    Six draws from four prompts, so that some prompt is drawn twice; unscorable outputs too.
    """
    model, run, drawn = tiny(), config(estimator=estimator), []

    def seen(rollouts, questions):
        drawn.append((rollouts, questions))
        return reward(rollouts, questions)

    task = Task(PROMPTS, seen, 2, lambda model, rows: solution_probs(model, rows).detach())
    ((found, means),) = policy_gradients(Alone(model), task, [run], [run_rng(3)])
    ((rollouts, questions),) = drawn
    assert len(set(questions.tolist())) < len(questions) == 6
    rewards = reward(rollouts, questions)
    value = solution_probs(model, questions).detach()
    expected = gradient(
        estimator, per_output_scores(model, rollouts), rewards, SideInformation(value)
    ).mean(dim=0)
    ours = torch.cat([each.flatten() for each in found])
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    assert float(means) == pytest.approx(float(rewards.nanmean()), rel=1e-12)


def test_outputs_are_those_of_sample_groups():
    """Prompts and uniform numbers of a step come from the generator in a fixed order."""
    model, drawn = tiny(), []

    def seen(rollouts, questions):
        drawn.append((rollouts, questions))
        return MATCH(rollouts, questions)

    next(policy_gradients(Alone(model), Task(PROMPTS, seen, 2), [config()], [run_rng(1)]))
    ((rollouts, questions),) = drawn
    rng = run_rng(1)
    wanted = torch.randint(4, (24,), generator=rng)[:6]
    again = sample_groups(model, PROMPTS[wanted], 4, max_tokens=2, rng=rng)
    assert torch.equal(questions, wanted)
    assert torch.equal(rollouts.prompts.tokens, PROMPTS.tokens[wanted])
    assert torch.equal(rollouts.outputs, again.outputs)
    torch.testing.assert_close(rollouts.log_probs, again.log_probs, rtol=0, atol=1e-12)


def every_group(model, prompt: int, size: int) -> tuple[Rollouts, torch.Tensor]:
    """All groups of outputs to a prompt, each as a prompt of its own, and their probabilities."""
    others = [token for token in range(VOCABULARY) if token != END]
    outputs = [[END], *([a, b] for a in others for b in range(VOCABULARY))]
    several = PROMPTS[torch.full((len(outputs),), prompt)]
    answers = Answers.of(several, [torch.tensor(each) for each in outputs])
    with torch.no_grad():
        probs = log_probs(model, answers).sum(dim=-1).exp()
    members = torch.tensor(list(product(range(len(outputs)), repeat=size)))
    prompts = PROMPTS[torch.full((len(members),), prompt)]
    mask = answers.mask[members]
    rollouts = Rollouts(prompts, answers.tokens[members], mask, mask.double())
    return rollouts, probs[members].prod(dim=-1)


@pytest.mark.parametrize("estimator", [Vanilla(), Grpo(), Oracle()], ids=lambda e: type(e).__name__)
def test_expected_gradient_is_that_of_the_objective(estimator):
    """Enumeration: the mean of ĝ(x) over all groups is ∇π(y*∣x), at G = 2."""
    model, prompt = tiny(), 1
    rollouts, probs = every_group(model, prompt, 2)
    torch.testing.assert_close(probs.sum(), torch.tensor(1.0).double(), rtol=0, atol=1e-12)
    rewards = MATCH(rollouts, torch.full((len(probs),), prompt))
    value = solution_probs(model)[prompt].detach().expand(len(probs))
    weights = estimator.advantages(rewards, SideInformation(value)) * probs[:, None] / 2
    found = weighted_score(model, rollouts, weights)
    expected = torch.autograd.grad(solution_probs(model)[prompt], list(model.parameters()))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", [Constant(0.7), Decay(2.0, 3.0)], ids=["constant", "decay"])
def test_steps_are_rate_times_gradient(schedule):
    """‖θ_i − θ_(i−1)‖ = η_i ‖ĝ_i‖ at every step, and the first step goes along ĝ."""
    model = tiny()
    run = config(schedule=schedule, checkpoints=(1, 2, 3, 4))
    path, norms = [theta(model)], []
    ((first, _),) = policy_gradients(Alone(model), Task(PROMPTS, MATCH, 2), [run], [run_rng(0)])
    for checkpoint in train(model, Task(PROMPTS, MATCH, 2), run, rng=run_rng(0), evaluate=accuracy):
        path.append(theta(model))
        norms.append(checkpoint.gradient_norm)
    rates = schedule.rates(4)
    moves = [float((after - before).norm()) for before, after in pairwise(path)]
    np.testing.assert_allclose(moves, rates * np.array(norms), rtol=1e-10)
    along = path[0] + rates[0] * torch.cat([each.flatten() for each in first])
    torch.testing.assert_close(path[1], along, rtol=0, atol=1e-14)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_is_that_of_torch(decay):
    shapes = [(1, 3, 2), (1, 4)]
    rng = torch.Generator().manual_seed(0)
    ours = tuple(torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes)
    theirs = [torch.nn.Parameter(each.clone()) for each in ours]
    reference = torch.optim.AdamW(theirs, lr=0.03, weight_decay=decay, maximize=True)
    optimizer = AdamW(weight_decay=decay)
    moments = optimizer.moments(ours)
    for iteration in range(1, 6):
        gradients = tuple(torch.randn(each.shape, generator=rng).double() for each in ours)
        moves = optimizer.directions(gradients, ours, moments, iteration)
        for parameter, move, other, part in zip(ours, moves, theirs, gradients, strict=True):
            parameter.add_(0.03 * move)
            other.grad = part
        reference.step()
        for parameter, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(parameter, other.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.5), ("adamw", 0.02)])
def test_training_raises_accuracy(optimizer, rate):
    model = tiny()
    run = config(
        batch_size=8, group_size=8, num_iterations=40, schedule=Constant(rate),
        optimizer=OPTIMIZERS[optimizer], checkpoints=(1, 20, 40),
    )  # fmt: skip
    before = accuracy(model)["accuracy"]
    found = list(train(model, Task(PROMPTS, MATCH, 2), run, rng=run_rng(0), evaluate=accuracy))
    accuracies = [before, *(each.measured["accuracy"] for each in found)]
    assert [each.iteration for each in found] == [1, 20, 40]
    assert accuracies == sorted(accuracies)
    assert accuracies[-1] > 0.7 > 0.1 > before  # three of four prompts; the last is given up
    assert found[1].mean_reward < found[2].mean_reward < found[2].measured["accuracy"]


def outputs_seen(run: ModelTraining, key: tuple[int, ...]) -> list[tuple[list, list]]:
    """Questions and outputs of every step, at a policy that is not moved."""
    seen = []

    def reward(rollouts, questions):
        seen.append((questions.tolist(), rollouts.outputs.flatten(0, 1).tolist()))
        return torch.zeros(rollouts.outputs.shape[:2], dtype=torch.float64)

    steps = train(tiny(), Task(PROMPTS, reward, 2), run, rng=run_rng(*key), evaluate=accuracy)
    assert [each.measured for each in steps] == [accuracy(tiny())]
    return seen


def test_runs_of_a_key_share_prompts_and_outputs():
    """Paired: another estimator sees the same outputs; another G the same prompts first."""
    narrow, wide = config(batch_size=12, group_size=2), config(batch_size=6, group_size=4)
    one, other = outputs_seen(narrow, (7, 24)), outputs_seen(wide, (7, 24))
    assert one == outputs_seen(changed(narrow, estimator=Vanilla()), (7, 24))
    assert one != outputs_seen(narrow, (8, 24))
    for (questions, outputs), (fewer, others) in zip(one, other, strict=True):
        assert questions[:6] == fewer
        # The first output of all answers the same prompt by the same uniform numbers.
        assert outputs[:2] == others[:2]


def test_keys_name_independent_streams():
    keys = [(), (0,), (1,), (0, 0), (0, 1024), (1, 1024), (1024, 1)]
    draws = {tuple(torch.rand(2, generator=run_rng(*key)).tolist()) for key in keys}
    assert len(draws) == len(keys)
    assert torch.equal(run_rng(3, 4).get_state(), run_rng(3, 4).get_state())
    with pytest.raises(ValueError, match="coordinates must be an integer of at least 0, got -1"):
        run_rng(0, -1)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_resumed_run_is_the_same_bit_for_bit(optimizer, tmp_path):
    run = config(num_iterations=6, checkpoints=(2, 4, 6), optimizer=OPTIMIZERS[optimizer],
                 schedule=Decay(0.1, 2.0))  # fmt: skip
    task, model = Task(PROMPTS, MATCH, 2), tiny()
    steps = train(model, task, run, rng=run_rng(0), evaluate=accuracy)
    save_state(next(steps).state, tmp_path / "runs" / "state.pt")
    rest = list(steps)
    other = tiny(seed=5)  # neither its parameters nor its generator matter
    state = load_state(tmp_path / "runs" / "state.pt")
    again = list(train(other, task, run, rng=run_rng(9), evaluate=accuracy, state=state))
    assert [each.iteration for each in again] == [4, 6]
    for ours, theirs in zip(again, rest, strict=True):
        assert ours.measured == theirs.measured
        assert (ours.mean_reward, ours.gradient_norm) == (theirs.mean_reward, theirs.gradient_norm)
    assert torch.equal(theta(other), theta(model))


def test_a_state_is_a_copy():
    """Later steps do not change what was handed out."""
    run = config(checkpoints=(1, 4), optimizer=AdamW())
    steps = train(tiny(), Task(PROMPTS, MATCH, 2), run, rng=run_rng(0), evaluate=accuracy)
    first = next(steps).state
    before = pickle.dumps([each.tolist() for part in first["moments"] for each in part])
    parameters = [each.clone() for each in first["parameters"]]
    next(steps)
    assert pickle.dumps([each.tolist() for part in first["moments"] for each in part]) == before
    assert all(torch.equal(*each) for each in zip(parameters, first["parameters"], strict=True))


@pytest.mark.parametrize("step", [(Path, "write_bytes"), (os, "replace")], ids=["write", "rename"])
def test_a_state_that_could_not_be_written_leaves_the_old_one(tmp_path, monkeypatch, step):
    path = tmp_path / "state.pt"
    save_state({"iteration": 1}, path)

    def broken(file, _):
        Path(file).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(*step, broken)
    with pytest.raises(OSError, match="disk full"):
        save_state({"iteration": 2}, path)
    assert load_state(path) == {"iteration": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_state_of_another_model_is_refused():
    run = config(num_iterations=1)
    task = Task(PROMPTS, MATCH, 2)
    (checkpoint,) = train(tiny(), task, run, rng=run_rng(0), evaluate=accuracy)
    adam = changed(run, optimizer=AdamW())
    with pytest.raises(ValueError, match="state must fit model and optimizer"):
        train(tiny(), task, adam, rng=run_rng(0), evaluate=accuracy, state=checkpoint.state)


def test_divergence_stops_with_step_and_norm():
    run = config(schedule=Constant(1e8))
    message = (
        r"diverged at iteration [12]: the norm of the parameters must be at most 10000, got \d"
    )
    with pytest.raises(FloatingPointError, match=message):
        list(train(tiny(), Task(PROMPTS, MATCH, 2), run, rng=run_rng(0), evaluate=accuracy))


def test_a_large_gradient_stops():
    run = config(norm_limit=30.0)
    task = Task(PROMPTS, lambda rollouts, rows: 1e4 * graded(rollouts, rows), 2)
    with pytest.raises(FloatingPointError, match="iteration 1: the norm of the gradient must"):
        list(train(tiny(), task, run, rng=run_rng(0), evaluate=accuracy))


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf])
def test_infinite_rewards_stop_before_the_parameters_are_spoilt(bad):
    calls, model = [], tiny()

    def reward(rollouts, questions):
        calls.append(0)
        found = MATCH(rollouts, questions)
        return found if len(calls) < 3 else torch.full_like(found, bad)

    steps = train(model, Task(PROMPTS, reward, 2), config(), rng=run_rng(0), evaluate=accuracy)
    with pytest.raises(FloatingPointError, match=r"iteration 3: the norm of the gradient .* nan"):
        list(steps)
    assert theta(model).isfinite().all()


def test_a_model_that_is_no_number_is_refused_at_once():
    model = tiny()
    with torch.no_grad():
        model.head.weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"iteration 0: the norm of the parameters .* nan"):
        train(model, Task(PROMPTS, MATCH, 2), config(), rng=run_rng(0), evaluate=accuracy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"group_size": 2.0}, "group_size must be an integer of at least 1, got 2.0"),
        ({"num_iterations": 0}, "num_iterations must be an integer of at least 1"),
        ({"checkpoints": (2, 2)}, "checkpoints must be increasing and at most 4"),
        ({"checkpoints": (5,)}, "checkpoints must be increasing and at most 4"),
        ({"checkpoints": (0,)}, "checkpoints must be an integer of at least 1, got 0"),
        ({"norm_limit": 0.0}, "norm_limit must be a finite number and above 0"),
        ({"rows_per_pass": 0}, "rows_per_pass must be an integer of at least 1, got 0"),
        (
            {"projection": Box(np.zeros(2), np.ones(2))},
            r"projection must be None for a language model, .* got Box\(",
        ),
        (
            {"prompt_sampling": "epochs"},
            "prompt_sampling must be 'iid' for a language model, got 'epochs'",
        ),
        ({"keep_theta": False}, "keep_theta must be True for a language model, .* got False"),
    ],
)
def test_bad_configurations_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        config(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group_size": 1}, "group_size must be at least 2 for a leave-one-out baseline, got 1"),
        ({"estimator": Oracle()}, "value must be given for the Oracle estimator"),
    ],
)
def test_what_cannot_be_stepped_is_refused_at_the_first_step(change, message):
    task = Task(PROMPTS, MATCH, 2)
    with pytest.raises(ValueError, match=message):
        next(train(tiny(), task, config(**change), rng=run_rng(0), evaluate=accuracy))


def test_outputs_must_fit_the_context():
    with pytest.raises(ValueError, match="max_tokens must be an integer of at least 1, got 0"):
        Task(PROMPTS, MATCH, 0)
    steps = train(tiny(), Task(PROMPTS, MATCH, 4), config(), rng=run_rng(0), evaluate=accuracy)
    with pytest.raises(ValueError, match="max_tokens must be at most 3"):
        next(steps)


def test_rewards_of_another_shape_are_refused():
    task = Task(PROMPTS, lambda rollouts, questions: torch.zeros(24), 2)
    with pytest.raises(ValueError, match=r"reward must return the shape \(6, 4\), got \(24,\)"):
        next(train(tiny(), task, config(), rng=run_rng(0), evaluate=accuracy))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta1": 1.0}, r"beta1 must lie in \[0, 1\), got 1.0"),
        ({"beta2": -0.1}, r"beta2 must lie in \[0, 1\)"),
        ({"epsilon": 0.0}, "epsilon must be a finite number and above 0"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
    ],
)
def test_bad_optimizers_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        AdamW(**change)
