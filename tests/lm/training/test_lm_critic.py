"""The value network: values, regression, the step of an actor–critic."""

from __future__ import annotations

from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import pytest
import torch

from support.lm_problems import (
    OUTPUTS,
    PROMPTS,
    RIGHT,
    SOLUTIONS,
    answers,
    matches,
    plain_log_prob,
    problem,
    tiny,
)
from ustat_grpo import Constant, Grpo, Practice, SideInformation, TrainingConfig
from ustat_grpo.estimators import Oracle
from ustat_grpo.estimators.baselines import Critic
from ustat_grpo.lm import ModelTraining, Task, run_rng, solution_probs, train
from ustat_grpo.lm.questions.rewards import ExactMatch
from ustat_grpo.lm.training.actor_critic import (
    ActorCritic,
    LearnedCritic,
    Learner,
    draw_batch,
    regression,
    train_step,
    value_network,
    values,
)
from ustat_grpo.lm.training.model_training import AdamW
from ustat_grpo.lm.training.policy_gradient import Alone, policy_gradients

TASK = Task(PROMPTS, ExactMatch(SOLUTIONS), 2)
EXACT = {"rtol": 1e-12, "atol": 1e-12}
ROWS = torch.arange(len(PROMPTS)).repeat_interleave(len(OUTPUTS))
SOME = answers([(0, 1), (3, 2), (1,)])  # the last has one token only


def critic_network(seed: int = 5):
    """Return a value network that says something everywhere."""
    network = value_network(tiny(seed))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        network.head.weight.normal_(std=0.5)
        network.head.bias.fill_(0.2)
    return network


def plain_values(network, prompt, output):
    """V̂ before each token as the definition says: one sequence, no padding, no cache."""
    before = PROMPTS.tokens[prompt][PROMPTS.real[prompt]].tolist()
    tokens = torch.tensor([[*before, *output[:-1]]])
    found, _ = network(tokens, torch.ones_like(tokens, dtype=torch.bool))
    return found[0, len(before) - 1 :, 0]


def outputs(batch):
    """Return prompt and tokens of each distinct output."""
    rows = zip(batch.answers.prompt, batch.answers.tokens, batch.answers.mask, strict=True)
    asked = [
        int((PROMPTS.tokens == each).all(dim=1).nonzero()[0, 0])
        for each in batch.answers.prompts.tokens
    ]
    return [(asked[int(p)], tuple(tokens[mask].tolist())) for p, tokens, mask in rows]


def run(batch_size=6, group_size=4, **changes):
    """Return how a run samples."""
    shared = {"estimator": Grpo(), "num_iterations": 3, "schedule": Constant(0.5)}
    sizes = {"batch_size": batch_size, "group_size": group_size}
    return TrainingConfig(**{**shared, **sizes, **changes})


def step_once(policy, critic):
    """Take the first step of policy and critic."""
    learners = ActorCritic(Learner(policy, 0.5), critic)
    train_step(learners, TASK, run(), rng=run_rng(3), iteration=1)


def flat(parts):
    return torch.cat([part.detach().flatten() for part in parts])


class TestValueNetwork:
    def test_is_the_policy_with_another_head(self):
        policy = tiny()
        network = value_network(policy)
        assert not values(network, SOME, per_token=True).any()
        ours, theirs = network.state_dict(), policy.state_dict()
        assert {name for name in ours if name not in theirs} == {"head.bias"}
        for name, weight in theirs.items():
            if name != "head.weight":
                assert torch.equal(weight, ours[name])
                assert weight.data_ptr() != ours[name].data_ptr()
        assert ours["head.weight"].shape == (1, 8) and policy.head.weight.shape == (4, 8)

    @pytest.mark.parametrize("tied", [False, True])
    def test_policy_is_left_alone(self, tied):
        """Would catch: a head that both share, or the embedding lost with a tied one."""
        policy = tiny(tied=tied)
        before = flat(policy.parameters())
        learner = Learner(value_network(policy), 0.1)
        learner.ascend(tuple(map(torch.ones_like, learner.parameters)), 1)
        assert torch.equal(flat(policy.parameters()), before)

    def test_values_are_read_before_each_token(self):
        """Would catch: values after the token that they are to judge."""
        network = critic_network()
        found = values(network, SOME, per_token=True)
        for row, output in enumerate([(0, 1), (3, 2), (1,)]):
            expected = plain_values(network, row, output)
            torch.testing.assert_close(found[row, : len(output)], expected, **EXACT)
        at_prompt = values(network, SOME, per_token=False)
        assert at_prompt.shape == (3, 1)
        torch.testing.assert_close(at_prompt[:, 0], found[:, 0], **EXACT)


class TestRegression:
    RETURNS, COUNTS = (torch.tensor(each).double() for each in ([0.0, 0.5, 1.0], [3.0, 2.0, 0.0]))

    @pytest.mark.parametrize("per_token", [False, True])
    def test_gradient_is_that_of_the_mean_squared_error(self, per_token):
        """Against autograd, output by output; the last stands for none.

        Would catch: an output counted once however often it was drawn, tokens behind the end.
        """
        network, errors = critic_network(), []
        for row, output in enumerate([(0, 1), (3, 2)]):
            found = plain_values(network, row, output)
            found = found if per_token else found[:1]
            errors += int(self.COUNTS[row]) * [(found - self.RETURNS[row]).square()]
        mean = torch.cat(errors).mean()
        expected = torch.autograd.grad(mean, list(network.parameters()))
        ours, predictions = regression(
            network, SOME, self.RETURNS, self.COUNTS, per_token=per_token
        )
        torch.testing.assert_close(flat(ours), flat(expected), **EXACT)
        assert not predictions.requires_grad
        once, _ = regression(network, SOME, self.RETURNS, self.COUNTS.sign(), per_token=per_token)
        assert (flat(once) - flat(expected)).norm() > 0.01 * flat(expected).norm()

    def test_numbers_of_rows_must_agree(self):
        with pytest.raises(ValueError, match="returns"):
            regression(critic_network(), SOME, self.RETURNS[:2], self.COUNTS, per_token=False)

    @pytest.mark.parametrize("per_token", [False, True])
    def test_finds_the_values_of_a_policy_that_stays(self, per_token):
        """Over every output by its probability, so without noise: V̂(x, y_<t) → V(x, y_<t).

        Would catch: steps uphill, or a regression on something else than the reward; the best
        constant leaves the spread of V, 0.068.
        """
        policy, known = problem()
        whole = answers(OUTPUTS * len(PROMPTS), PROMPTS[ROWS])
        critic = Learner(value_network(policy), 0.01, AdamW())
        target = torch.tensor(matches()).flatten()
        chances = torch.tensor(known.probs).flatten()
        for iteration in range(1, 301):
            gradient, _ = regression(critic.network, whole, target, chances, per_token=per_token)
            critic.ascend(tuple(-part for part in gradient), iteration)
        found = values(critic.network, SOLUTIONS, per_token=per_token).detach()
        value = solution_probs(policy, SOLUTIONS).detach()
        assert (found[:, 0] - value).square().mean().sqrt() < 0.068 / 10
        if per_token:  # after its first token, a solution is as likely as its second
            second = plain_log_prob(policy, 0, RIGHT[0]) - plain_log_prob(policy, 0, RIGHT[0][:1])
            assert found[0, 1] == pytest.approx(second.exp().item(), abs=0.03)


class TestStep:
    def test_without_a_critic_it_is_algorithm_1(self):
        """Three steps of `train`. Would catch: another draw, another scale, groups mixed up."""
        ours, theirs = tiny(), tiny()
        rng = run_rng(3)
        for iteration in (1, 2, 3):
            train_step(ActorCritic(Learner(ours, 0.5)), TASK, run(), rng=rng, iteration=iteration)
        for _ in train(theirs, TASK, ModelTraining(run()), rng=run_rng(3), evaluate=lambda _: {}):
            pass
        torch.testing.assert_close(flat(ours.parameters()), flat(theirs.parameters()), **EXACT)

    def test_prompt_critic_is_a_given_baseline(self):
        """One step against `policy_gradients` of the oracle that is told V̂ of before the step.

        Would catch: predictions after the critic's step, which know the rewards.
        """
        policy, network = tiny(), critic_network()

        def told(_, questions):
            return values(network, SOLUTIONS, per_token=False)[:, 0].detach()[questions]

        ((expected, _),) = policy_gradients(
            Alone(policy),
            Task(PROMPTS, TASK.reward, 2, told),
            [ModelTraining(run(estimator=Oracle()))],
            [run_rng(3)],
        )
        before = flat(policy.parameters())
        critic = LearnedCritic(Learner(deepcopy(network), 0.3))
        step_once(policy, critic)
        moved = flat(policy.parameters()) - before
        torch.testing.assert_close(moved, 0.5 * flat(expected), **EXACT)
        with torch.no_grad():
            after = values(critic.learner.network, SOLUTIONS, per_token=False)
        assert (after[:, 0] - told(None, slice(None))).abs().max() > 0.01

    def test_critic_goes_downhill(self):
        """One step is −η times the gradient of the mean squared error over all 24 outputs."""
        policy, network = tiny(), critic_network()
        batch = draw_batch(policy, TASK, run(), run_rng(3))
        rows = [
            values(network, batch.answers, per_token=False)[place]
            for place in batch.place.flatten()
        ]
        error = (torch.cat(rows) - batch.rewards.flatten()).square().mean()
        expected = torch.autograd.grad(error, list(network.parameters()))
        before = flat(network.parameters())
        critic = LearnedCritic(Learner(network, 0.3))
        step_once(policy, critic)
        torch.testing.assert_close(
            flat(network.parameters()) - before, -0.3 * flat(expected), **EXACT
        )

    def test_its_advantages_are_those_of_the_estimator(self):
        batch = draw_batch(tiny(), TASK, run(), run_rng(3))
        predictions = values(critic_network(), batch.answers, per_token=False).detach()
        at_prompt = predictions[batch.place][:, 0, 0]
        side = SideInformation(prediction=at_prompt)
        expected = Critic().advantages(batch.rewards, side)
        ours = batch.rewards - predictions[batch.place][..., 0]
        torch.testing.assert_close(ours, expected, **EXACT)

    def test_token_critic_weighs_each_token(self):
        """Against one backward pass for each token of each output."""
        policy, network = tiny(), critic_network()
        batch = draw_batch(policy, TASK, run(), run_rng(3))
        rows, rewards = outputs(batch), batch.rewards.flatten()
        objective = torch.zeros((), dtype=torch.float64)
        for reward, place in zip(rewards, batch.place.flatten().tolist(), strict=True):
            prompt, output = rows[place]
            baseline = plain_values(network, prompt, output).detach()
            steps = [
                plain_log_prob(policy, prompt, output[: end + 1])
                - (plain_log_prob(policy, prompt, output[:end]) if end else 0)
                for end in range(len(output))
            ]
            objective = objective + ((reward - baseline) * torch.stack(steps)).sum()
        expected = torch.autograd.grad(objective / len(rewards), list(policy.parameters()))
        before = flat(policy.parameters())
        critic = LearnedCritic(Learner(network, 0.3), per_token=True)
        step_once(policy, critic)
        moved = flat(policy.parameters()) - before
        torch.testing.assert_close(moved, 0.5 * flat(expected), **EXACT)

    def test_unscorable_outputs_count_for_nothing(self):
        """Would catch: NaN in policy or critic, or a mean over outputs without a reward."""

        def reward(rollouts, questions):
            found = TASK.reward(rollouts, questions)
            return found.masked_fill(rollouts.outputs[..., 0] == 3, torch.nan)

        policy, network = tiny(), critic_network()
        critic = LearnedCritic(Learner(network, 0.3))
        both, task = ActorCritic(Learner(policy, 0.5), critic), Task(PROMPTS, reward, 2)
        mean = train_step(both, task, run(), rng=run_rng(3), iteration=1)
        assert np.isfinite(mean)
        assert flat(policy.parameters()).isfinite().all()
        assert flat(network.parameters()).isfinite().all()

    def test_phases(self):
        seen = []

        @contextmanager
        def phase(name):
            seen.append(name)
            yield

        critic = LearnedCritic(Learner(critic_network(), 0.3))
        for each in (None, critic):
            both = ActorCritic(Learner(tiny(), 0.5), each)
            train_step(both, TASK, run(), rng=run_rng(3), iteration=1, phase=phase)
        assert seen == ["sampling", "policy", "sampling", "critic", "policy"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"practice": Practice(2)}, r"practice must be that of Algorithm 1, got Practice\("),
            ({"prompt_sampling": "epochs"}, "prompt_sampling must be 'iid' .* got 'epochs'"),
        ],
    )
    def test_more_than_a_step_is_refused_before_any_work(self, change, message):
        """Would catch: minibatches or epochs that a configuration asks for and nobody makes."""
        learners = ActorCritic(Learner(tiny(), 0.5))
        with pytest.raises(ValueError, match=message):
            train_step(learners, None, run(**change), rng=run_rng(3), iteration=1)
