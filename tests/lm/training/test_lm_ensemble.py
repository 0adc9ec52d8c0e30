"""Runs that train together: each is the run that `train` makes of it alone."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from support.model_runs import model_training
from ustat_grpo.estimators import GroupMean, Grpo, Oracle, Vanilla
from ustat_grpo.lm import Answers, Prompts, Transformer, TransformerShape, log_probs, sample_groups
from ustat_grpo.lm.language_model import chosen_device
from ustat_grpo.lm.questions.rewards import ExactMatch
from ustat_grpo.lm.scoring import weighted_score
from ustat_grpo.lm.task import Task
from ustat_grpo.lm.training.ensemble import Ensemble, train_ensemble
from ustat_grpo.lm.training.model_training import OPTIMIZERS, AdamW, ModelTraining
from ustat_grpo.lm.training.training import run_rng, train
from ustat_grpo.optimization.practice import Practice
from ustat_grpo.optimization.schedules import Constant, Decay

VOCABULARY, END = 5, 1
PROMPTS = Prompts.of([[2, 3, 2], [3], [0, 2], [4, 3], [4]], pad_token=0)
OUTPUTS = [torch.tensor(each) for each in ([2, END], [3, END], [END], [4, 4, END], [0, END])]
SOLUTIONS = Answers.of(PROMPTS, OUTPUTS)


def value(model, rows: torch.Tensor) -> torch.Tensor:
    where = next(model.parameters()).device
    solutions = SOLUTIONS[rows]  # in the order of prompts, and `prompt` says whose they are
    solutions = Answers(solutions.prompts.to(where), *(
        each.to(where) for each in (solutions.prompt, solutions.tokens, solutions.mask)
    ))  # fmt: skip
    return log_probs(model, solutions).sum(dim=-1).exp()


TASK = Task(PROMPTS, ExactMatch(SOLUTIONS), 3, value)


def tiny(seed: int = 0, **sizes) -> Transformer:
    torch.manual_seed(seed)
    given = {"width": 8, "num_heads": 2, "hidden_width": 16, **sizes}
    return Transformer(TransformerShape(VOCABULARY, 7, **given)).double()


def accuracy(model) -> dict[str, float]:
    with torch.no_grad():
        return {"accuracy": float(value(model, torch.arange(5)).mean())}


def config(batch_size: int, group_size: int, **changes) -> ModelTraining:
    sizes = {"batch_size": batch_size, "group_size": group_size, "num_iterations": 5}
    return model_training(**{**sizes, **changes})


def close(ours, theirs, tolerance: float = 1e-9) -> None:
    """Checkpoints agree, states and all."""
    assert ours.iteration == theirs.iteration == ours.state["iteration"]
    assert ours.measured == pytest.approx(theirs.measured, abs=tolerance)
    assert ours.mean_reward == pytest.approx(theirs.mean_reward, abs=tolerance)
    assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, abs=tolerance)
    assert torch.equal(ours.state["rng"], theirs.state["rng"])
    assert len(ours.state["moments"]) == len(theirs.state["moments"])
    parts = [[each.state["parameters"], *each.state["moments"]] for each in (ours, theirs)]
    for part, other in zip(*parts, strict=True):
        for one, two in zip(part, other, strict=True):
            torch.testing.assert_close(one.cpu(), two.cpu(), rtol=0, atol=tolerance)


def alone(model, run: ModelTraining, seed: int, state=None) -> list:
    """The checkpoints of a run on its own, the model left as it is."""
    return list(
        train(deepcopy(model), TASK, run, rng=run_rng(seed), evaluate=accuracy, state=state)
    )


def together(model, runs, seeds, states=None) -> list:
    rngs = [run_rng(seed) for seed in seeds]
    return list(train_ensemble(model, TASK, runs, rngs=rngs, evaluate=accuracy, states=states))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_members_are_the_runs_on_their_own(optimizer, tied):
    """Group sizes, seeds, estimators and schedules of their own; 1e-9 after five steps.

    Would see a prompt, a uniform number or a gradient that goes to another member.
    """
    rate = {"sgd": 0.5, "adamw": 0.01}[optimizer]
    shared = {"optimizer": OPTIMIZERS[optimizer], "checkpoints": (2, 5)}
    runs = [
        config(12, 2, schedule=Constant(rate), **shared),
        config(6, 4, schedule=Decay(3 * rate, 1.0), estimator=Vanilla(), **shared),
        config(1, 24, schedule=Constant(2 * rate), estimator=GroupMean(), **shared),
        config(1, 24, schedule=Constant(2 * rate), **shared),
        config(3, 2, schedule=Constant(rate), estimator=Oracle(), **shared),
    ]
    model, seeds = tiny(tied=tied), [0, 1, 0, 0, 2]
    before = [each.clone() for each in model.parameters()]
    found = together(model, runs, seeds)
    assert [len(each) for each in found] == [5, 5]
    for place, (run, seed) in enumerate(zip(runs, seeds, strict=True)):
        for ours, theirs in zip(found, alone(model, run, seed), strict=True):
            close(ours[place], theirs)
    assert all(torch.equal(*each) for each in zip(before, model.parameters(), strict=True))
    ends = [each.state["parameters"][0] for each in found[-1]]
    assert not any(torch.allclose(ends[0], end, rtol=0, atol=1e-6) for end in ends[1:])


def test_states_go_from_a_run_to_an_ensemble_and_back():
    """Half of the way together, half alone, and the other way round."""
    shared = {"checkpoints": (3, 5), "optimizer": AdamW(), "schedule": Constant(0.01)}
    runs = [config(6, 2, **shared), config(3, 4, **shared)]
    whole = [alone(tiny(), run, seed) for seed, run in enumerate(runs)]
    half = together(tiny(), runs, [0, 1])[0]
    for seed, run in enumerate(runs):
        close(alone(tiny(9), run, 7, half[seed].state)[-1], whole[seed][-1])
    (rest,) = together(tiny(9), runs, [7, 7], [each[0].state for each in whole])
    for ours, theirs in zip(rest, whole, strict=True):
        close(ours, theirs[-1])


def test_an_ensemble_is_a_language_model():
    """Prompts that begin with the number of their member, in any order, one member without any."""
    members = [tiny(seed) for seed in range(3)]
    ensemble = Ensemble.of(members[0], 3)
    with torch.no_grad():
        for place, member in enumerate(members):
            for stack, own in zip(ensemble.parameters(), member.parameters(), strict=True):
                stack[place] = own
    assert (ensemble.end_token, ensemble.context_length) == (END, 8)
    of = torch.tensor([2, 0, 2, 2, 0])
    asked = Prompts(
        torch.cat([of[:, None], PROMPTS.tokens], dim=1),
        torch.cat([torch.ones(5, 1, dtype=torch.bool), PROMPTS.real], dim=1),
    )
    rollouts = sample_groups(ensemble, asked, 10, max_tokens=3, rng=run_rng(0))
    weights = torch.randn(5, 10, dtype=torch.float64, generator=run_rng(1))
    gradient = weighted_score(ensemble, rollouts, weights)
    for place, member in enumerate(members):
        own = of == place
        expected = [torch.zeros_like(each) for each in member.parameters()]
        if own.any():
            theirs = replace(
                rollouts, prompts=PROMPTS[own], outputs=rollouts.outputs[own],
                mask=rollouts.mask[own], log_probs=rollouts.log_probs[own],
            )  # fmt: skip
            expected = weighted_score(member, theirs, weights[own])
        for ours, other in zip(gradient, expected, strict=True):
            torch.testing.assert_close(ours[place], other, rtol=0, atol=1e-12)
    answers = Answers(asked, torch.arange(5), rollouts.outputs[:, 0], rollouts.mask[:, 0])
    for share_prompts in (True, False):
        found = log_probs(ensemble, answers, share_prompts=share_prompts)
        torch.testing.assert_close(found, rollouts.log_probs[:, 0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("last", [1, 2, 3, 4, 9])
def test_an_ensemble_returns_the_last_logits(last, monkeypatch):
    """Prompts of three tokens after the number of the member, with which nothing is asked."""
    asked, forward = [], Transformer.forward
    monkeypatch.setattr(
        Transformer,
        "forward",
        lambda *given, last=None: asked.append(last) or forward(*given, last=last),
    )
    ensemble, members = Ensemble.of(tiny(), 3), torch.tensor([2, 0, 2, 2, 0])
    tokens = torch.cat([members[:, None], PROMPTS.tokens], dim=1)
    real = torch.cat([torch.ones(5, 1, dtype=torch.bool), PROMPTS.real], dim=1)
    whole, cache = ensemble(tokens, real)
    assert whole.shape == (5, 4, VOCABULARY)
    assert torch.equal(ensemble(tokens, real, last=last)[0], whole[:, -last:])
    more, real = tokens[:, :3], torch.cat([real, torch.ones(5, 3, dtype=torch.bool)], dim=1)
    rest, _ = ensemble(more, real, cache)
    assert torch.equal(ensemble(more, real, cache, last=last)[0], rest[:, -last:])
    assert asked == [None, last, None, last]


def test_frozen_parameters_stay():
    model = tiny()
    model.tokens.weight.requires_grad_(False)
    run = config(6, 4, num_iterations=2)
    ((ours,),) = together(model, [run], [0])
    close(ours, alone(model, run, 0)[0])
    assert len(ours.state["parameters"]) == len(list(model.parameters())) - 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_iterations": 4}, r"num_iterations must be common to the ensemble, got \[5, 4\]"),
        ({"rows_per_pass": 2}, "rows_per_pass must be common to the ensemble"),
        ({"checkpoints": (1,)}, "checkpoints must be common to the ensemble"),
        ({"optimizer": AdamW()}, "optimizer must be common to the ensemble"),
    ],
)
def test_what_must_be_common_is_checked(change, message):
    runs = [config(6, 4), config(6, 4, **change)]
    with pytest.raises(ValueError, match=message):
        together(tiny(), runs, [0, 1])


@pytest.mark.parametrize(("runs", "seeds"), [([], []), ([config(6, 4)], [0, 1])])
def test_generators_must_be_one_a_run(runs, seeds):
    with pytest.raises(ValueError, match="rngs must be one a training"):
        together(tiny(), runs, seeds)


def test_states_must_be_one_a_run_at_the_same_iteration():
    run = config(3, 2, checkpoints=(1, 2, 5))
    states = [each.state for each in alone(tiny(), run, 0)]
    for wrong in (states[:1], states[:2]):
        with pytest.raises(ValueError, match="states must be of 2 runs at the same iteration"):
            together(tiny(), [run, run], [0, 1], wrong)


def test_divergence_names_the_run():
    runs = [config(6, 4), config(6, 4, schedule=Constant(1e9))]
    with pytest.raises(FloatingPointError, match="training of run 1 diverged at iteration"):
        together(tiny(), runs, [0, 1])


def test_device_is_chosen_by_what_there_is(monkeypatch):
    assert chosen_device("cpu") == torch.device("cpu")
    for there, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert chosen_device("auto") == torch.device(device)


@pytest.mark.parametrize("name", ["tpu9", "", "cpu:x", 0.5, None])
def test_devices_that_are_not_there_are_refused(name):
    with pytest.raises(
        ValueError, match="device must be auto or one of this machine, got"
    ) as error:
        chosen_device(name)
    assert repr(name) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="device must be auto or one of this machine, got 'cuda'"):
        chosen_device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("practice", [Practice(), Practice(3, clip=(0.1, 0.2), penalty_weight=0.5)])
@pytest.mark.parametrize("estimator", [Grpo(), Oracle()], ids=lambda each: type(each).__name__)
def test_members_on_a_gpu_are_the_runs_on_the_cpu(estimator, practice):
    shared = {"estimator": estimator, "practice": practice}
    runs = [config(6, 4, **shared), config(3, 8, **shared)]
    (found,) = together(tiny().to(chosen_device("auto")), runs, [0, 1])
    for seed, run in enumerate(runs):
        close(found[seed], alone(tiny(), run, seed)[0])
