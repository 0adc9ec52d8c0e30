"""Algorithm 2 on language models: its steps, who pays, and its runs."""

from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import torch

from support.lm_problems import (
    PROMPTS,
    graded,
    outputs_in,
    plain_token_log_probs,
    tiny,
    trainers_objective,
)
from support.model_runs import changed, model_training
from ustat_grpo.estimators import Grpo, Oracle, SideInformation, Vanilla
from ustat_grpo.estimators.interface import NOTHING
from ustat_grpo.lm import Rollouts, train, train_ensemble
from ustat_grpo.lm.questions.rewards import Reward
from ustat_grpo.lm.task import Task
from ustat_grpo.lm.training.model_training import AdamW, ModelTraining, Sgd
from ustat_grpo.lm.training.training import run_rng
from ustat_grpo.optimization.practice import PENALTIES, RATIOS, Practice
from ustat_grpo.optimization.schedules import Constant, Decay


def config(**changes) -> ModelTraining:
    return model_training(**{"batch_size": 6, "group_size": 4, "num_iterations": 1, **changes})


def theta(model) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for each in model.parameters()])


def look(model) -> dict[str, float]:
    return {"theta": float(theta(model).sum())}


def partly(rollouts: Rollouts, questions: torch.Tensor) -> torch.Tensor:
    """`graded`, but outputs that begin with a 3 are unscorable."""
    rewards = graded(rollouts, questions)
    return rewards.masked_fill(rollouts.outputs[..., 0] == 3, torch.nan)


def run_alone(model, task: Task, run: ModelTraining, seed: int = 0, state=None) -> list:
    """The checkpoints; the model goes to the end of the run."""
    return list(train(model, task, run, rng=run_rng(seed), evaluate=look, state=state))


@dataclass
class Seen:
    """A reward that keeps what it was asked."""

    reward: Reward = partly
    drawn: list = field(default_factory=list)

    def __call__(self, rollouts: Rollouts, questions: torch.Tensor) -> torch.Tensor:
        self.drawn.append((rollouts, questions))
        return self.reward(rollouts, questions)


def plain_iteration(model, drawn, run: ModelTraining, reference, optimizer) -> int:
    """One iteration by autograd; the old policy is the model as it comes. Returns the clipped."""
    (rollouts, questions), config = drawn, run.config
    old_model, clipped = deepcopy(model), 0
    rewards = partly(rollouts, questions)
    advantages = config.estimator.advantages(rewards)
    size = config.batch_size // config.practice.num_minibatches
    groups = list(zip(outputs_in(rollouts), questions.tolist(), strict=True))
    for start in range(0, config.batch_size, size):
        total = torch.zeros((), dtype=torch.float64)
        for row in range(start, start + size):
            scored = [i for i in range(config.group_size) if not rewards[row, i].isnan()]
            outputs, question = groups[row]
            for i in scored:
                now = plain_token_log_probs(model, question, outputs[i])
                with torch.no_grad():
                    old = plain_token_log_probs(old_model, question, outputs[i])
                    ref = plain_token_log_probs(reference, question, outputs[i])
                advantage = float(advantages[row, i])
                term = trainers_objective(now, old, advantage, ref, config.practice)
                total = total + term / (len(scored) * size)
                if config.practice.clip is not None:
                    free = trainers_objective(
                        now, old, advantage, ref, replace(config.practice, clip=None)
                    )
                    clipped += bool((term - free).abs() > 1e-9)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return clipped


def torch_optimizer(model, run: ModelTraining, rate: float) -> torch.optim.Optimizer:
    if isinstance(run.optimizer, Sgd):
        return torch.optim.SGD(model.parameters(), lr=rate, maximize=True)
    return torch.optim.AdamW(model.parameters(), lr=rate, maximize=True, weight_decay=0.0)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("clip", [None, (0.1, 0.2)])
@pytest.mark.parametrize("ratio", RATIOS)
def test_an_iteration_is_that_of_the_loss_of_trainers(ratio, clip, penalty):
    """Two minibatches against autograd of PPO's min and of k itself, to 1e-10.

    Would see: a ratio of the wrong minibatch, a sign of A that is lost in clipping, e^(−ℓ) for
    e^ℓ (each moves θ by more than 1e-3), a mean over unscorable outputs.
    """
    practice = Practice(2, ratio, clip, penalty, 0.3)
    run = config(practice=practice, schedule=Constant(2.0))
    reward, reference, model = Seen(), tiny(7), tiny()
    run_alone(model, Task(PROMPTS, reward, 2, reference=reference), run)
    plain, (drawn,) = tiny(), reward.drawn
    optimizer = torch_optimizer(plain, run, 2.0)
    clipped = plain_iteration(plain, drawn, run, reference, optimizer)
    assert torch.isnan(partly(*drawn)).any()
    assert (clipped > 1) == (clip is not None and ratio != "none")
    torch.testing.assert_close(theta(model), theta(plain), rtol=0, atol=1e-10)
    others = [replace(practice, penalty=each) for each in PENALTIES if each != penalty]
    others += [replace(practice, ratio=each) for each in RATIOS if each != ratio]
    for other in others:
        wrong = tiny()
        run_alone(
            wrong, Task(PROMPTS, partly, 2, reference=reference), changed(run, practice=other)
        )
        assert (theta(wrong) - theta(plain)).abs().max() > 1e-3


@pytest.mark.parametrize("rows_per_pass", [None, 2])
def test_optimizer_steps_are_numbered_across_minibatches(rows_per_pass):
    """Three iterations of three AdamW steps each, against torch.optim; θ_0 is the reference.

    Numbering the steps of an iteration alike would change every bias correction.
    """
    run = config(
        practice=Practice(3, penalty_weight=0.2), num_iterations=3, optimizer=AdamW(),
        schedule=Constant(0.05), rows_per_pass=rows_per_pass,
    )  # fmt: skip
    reward, model = Seen(), tiny()
    run_alone(model, Task(PROMPTS, reward, 2), run)
    plain, reference = tiny(), tiny()
    optimizer = torch_optimizer(plain, run, 0.05)
    for drawn in reward.drawn:
        plain_iteration(plain, drawn, run, reference, optimizer)
    assert len(reward.drawn) == 3
    torch.testing.assert_close(theta(model), theta(plain), rtol=0, atol=1e-9)


@pytest.mark.parametrize("practice", [Practice(1, ratio, (1e-12, 1e-12)) for ratio in RATIOS])
def test_without_minibatches_and_penalty_it_is_algorithm_1(practice):
    """Bit for bit: a ratio off by a rounding error would be clipped."""
    run, task = config(num_iterations=3), Task(PROMPTS, partly, 2)
    (ours,) = run_alone(tiny(), task, changed(run, practice=practice))
    (theirs,) = run_alone(tiny(), task, run)
    assert ours.gradient_norm == theirs.gradient_norm
    parts = zip(ours.state["parameters"], theirs.state["parameters"], strict=True)
    assert all(torch.equal(*each) for each in parts)


def test_gradient_norm_and_reward_are_means_over_steps():
    """One minibatch after the other at a rate near 0: their mean gradient is Algorithm 1's."""
    task, rate = Task(PROMPTS, graded, 2), 1e-9
    several = config(practice=Practice(3), schedule=Constant(rate))
    (ours,), (theirs,) = (
        run_alone(tiny(), task, run)
        for run in (several, changed(several, practice=Practice(), schedule=Constant(3 * rate)))
    )
    assert ours.mean_reward == theirs.mean_reward
    parts = zip(ours.state["parameters"], theirs.state["parameters"], strict=True)
    for one, other in parts:
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)
    assert ours.gradient_norm > theirs.gradient_norm  # of a mean of three different vectors


def test_token_and_sequence_ratio_agree_on_single_tokens():
    ends = []
    for ratio in ("token", "sequence", "none"):
        model = tiny()
        run = config(practice=Practice(3, ratio), num_iterations=2)
        run_alone(model, Task(PROMPTS, graded, 1), run)
        ends.append(theta(model))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-12)
    assert (ends[0] - ends[2]).abs().max() > 1e-3


def constantly(reward: float, rollouts: Rollouts, questions: torch.Tensor) -> torch.Tensor:
    return torch.full(rollouts.outputs.shape[:2], reward, dtype=torch.float64)


def test_who_pays_the_penalty():
    """Outputs without advantage do; unscorable ones do not; and at θ_0 nobody."""
    for reward, pays in ((0.0, True), (torch.nan, False)):
        task = Task(
            PROMPTS,
            partial(constantly, reward),
            2,
            reference=tiny(3),
        )
        model = tiny()
        run = config(practice=Practice(penalty_weight=1.0), norm_limit=1e6)
        run_alone(model, task, run)
        assert torch.equal(theta(model), theta(tiny())) != pays
        run_alone(model := tiny(), replace(task, reference=None), run)
        torch.testing.assert_close(theta(model), theta(tiny()), rtol=0, atol=1e-12)


@dataclass(frozen=True)
class Watching:
    """An estimator that keeps what it is told."""

    told: list = field(default_factory=list)

    def advantages(self, rewards, side: SideInformation = NOTHING):
        self.told.append((rewards, side))
        return Grpo().advantages(rewards)


def test_estimators_see_the_whole_batch_and_its_lengths():
    """Once an iteration, however many minibatches."""
    reward, estimator = Seen(graded), Watching()
    run = config(estimator=estimator, practice=Practice(3), num_iterations=2)
    run_alone(tiny(), Task(PROMPTS, reward, 2), run)
    assert len(estimator.told) == len(reward.drawn) == 2
    for (rewards, side), (rollouts, _) in zip(estimator.told, reward.drawn, strict=True):
        assert rewards.shape == (6, 4)
        lengths = [[len(output) for output in group] for group in outputs_in(rollouts)]
        assert side.lengths is not None and side.lengths.tolist() == lengths
        assert len(set(map(tuple, lengths))) > 1
        assert side.norms() is None and side.value is None


def test_what_training_does_not_know_is_said():
    with pytest.raises(ValueError, match="value must be given for the Oracle") as error:
        run_alone(tiny(), Task(PROMPTS, graded, 2), config(estimator=Oracle()))
    assert error.value.__notes__ == [
        "training knows lengths, and values if the task does, but no scores or norms"
    ]


# Runs: resumed, together, refused.


def penalised(**changes) -> ModelTraining:
    practice = Practice(2, clip=(0.1, 0.3), penalty="k3", penalty_weight=0.5)
    shared = {"num_iterations": 4, "checkpoints": (2, 4), "practice": practice}
    return config(**{**shared, "optimizer": AdamW(), "schedule": Decay(0.1, 2.0), **changes})


def test_a_resumed_run_keeps_its_reference():
    """Bit for bit from θ_0 and a state; a model that is not at θ_0 has another reference."""
    model, task = tiny(), Task(PROMPTS, partly, 2)
    middle, end = run_alone(model, task, penalised())
    again = tiny()
    (ours,) = run_alone(again, task, penalised(), 9, middle.state)
    assert (ours.mean_reward, ours.gradient_norm) == (end.mean_reward, end.gradient_norm)
    assert torch.equal(theta(again), theta(model))
    wrong = tiny(1)
    run_alone(wrong, task, penalised(), 9, middle.state)
    assert (theta(wrong) - theta(model)).abs().max() > 1e-4
    given = tiny(1)
    run_alone(given, replace(task, reference=tiny()), penalised(), 9, middle.state)
    assert torch.equal(theta(given), theta(model))


def test_a_model_may_be_its_own_reference():
    """As it is at the start: a reference that is trained along would never be left."""
    ends = []
    for own in (True, False):
        model = tiny()
        task = Task(PROMPTS, graded, 2, reference=model if own else None)
        run_alone(model, task, penalised())
        ends.append(theta(model))
    assert torch.equal(*ends)


def test_members_of_an_ensemble_are_the_runs_on_their_own():
    """Minibatches are cut within each run; 1e-9 after eight steps, states and all."""
    runs = [
        penalised(batch_size=12, group_size=2),
        penalised(batch_size=2, group_size=12, estimator=Vanilla()),
        penalised(schedule=Constant(0.02)),
    ]
    model, task = tiny(), Task(PROMPTS, partly, 2)
    rngs = [run_rng(seed) for seed in range(3)]
    found = list(train_ensemble(model, task, runs, rngs=rngs, evaluate=look))
    assert torch.equal(theta(model), theta(tiny()))
    for seed, run in enumerate(runs):
        for each, theirs in zip(found, run_alone(tiny(), task, run, seed), strict=True):
            ours = each[seed]
            assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, abs=1e-9)
            assert ours.mean_reward == pytest.approx(theirs.mean_reward, abs=1e-9)
            for name in ("parameters", "moments"):
                torch.testing.assert_close(ours.state[name], theirs.state[name], rtol=0, atol=1e-9)
    states = [each.state for each in found[0]]
    again = train_ensemble(model, task, runs, rngs=rngs, evaluate=look, states=states)
    for ours, theirs in zip(next(again), found[1], strict=True):
        torch.testing.assert_close(ours.state, theirs.state, rtol=0, atol=0)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="batch_size must be a multiple of num_minibatches = 4"):
        config(practice=Practice(4))
    runs = [config(), config(practice=Practice(2))]
    rngs = [run_rng(0), run_rng(1)]
    with pytest.raises(ValueError, match="practice must be common to the ensemble"):
        train_ensemble(tiny(), Task(PROMPTS, graded, 2), runs, rngs=rngs, evaluate=look)
