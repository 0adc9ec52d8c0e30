"""Algorithms 1 and 2 of arXiv 2603.01162 on a language model: ascent of J by grouped outputs.

`train` is one run; `ustat_grpo.lm.training.ensemble.train_ensemble` takes many at once, through the
same steps, and a run is the same either way.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ustat_grpo.inputs.checks import capable, instance, integer
from ustat_grpo.inputs.files import write_whole
from ustat_grpo.lm.sampling import require_torch_generator
from ustat_grpo.lm.scoring import Gradient
from ustat_grpo.lm.task import Task
from ustat_grpo.lm.training.model_training import ModelTraining
from ustat_grpo.lm.training.policy_gradient import Alone, JointPolicies, policy_gradients
from ustat_grpo.optimization.practice import Practice

RunState = dict[str, Any]
"""All that a run needs to go on: iteration, parameters, moments of the optimizer, generator."""

Evaluate = Callable[[Any], Mapping[str, float]]
"""Looks at a model and returns named numbers, such as its accuracy on held-out questions."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run after some of its iterations.

    Args:
        iteration: how many.
        measured: what `evaluate` returned.
        mean_reward: of the outputs sampled since the last checkpoint.
        gradient_norm: mean ‖ĝ‖ of the steps since then.
        state: to go on from here.
    """

    iteration: int
    measured: Mapping[str, float]
    mean_reward: float
    gradient_norm: float
    state: RunState


def run_rng(*coordinates: int) -> torch.Generator:
    """Return the generator of the run with these coordinates, such as a seed and the budget N.

    Leave estimator, group size and learning rate out. At each iteration, runs of the same key and
    budget then use the same uniform numbers, and larger minibatches begin with the prompts of
    smaller ones. The numbers are the same whatever device the model is on.

    Raises:
        ValueError: if a coordinate is no integer, or negative.

    Examples:
        >>> import torch
        >>> from ustat_grpo.lm import run_rng
        >>> first = torch.rand(2, generator=run_rng(0, 256))  # seed 0, 256 outputs a step
        >>> again = torch.rand(2, generator=run_rng(0, 256))  # of another group size, say
        >>> bool((first == again).all())
        True
    """
    words = [integer("coordinates", each, at_least=0) for each in coordinates]
    # Their number belongs to the key: SeedSequence takes no notice of zeros at the end.
    key = np.random.SeedSequence([len(words), *words])
    # 32 bits: a CPU generator takes no notice of the others in its seed.
    return torch.Generator().manual_seed(int(key.generate_state(1)[0]))


def train(
    model: Any,
    task: Task,
    training: ModelTraining,
    *,
    rng: torch.Generator,
    evaluate: Evaluate,
    state: RunState | None = None,
) -> Iterator[Checkpoint]:
    """Run Algorithm 1: θ ← θ + η_i ĝ, with ĝ = (1/BG) Σ_b Σ_i A_bi ∇ log π(y_bi∣x_b).

    With a `Practice`, run Algorithm 2: m such steps with the outputs of one policy, see
    `policy_gradients`.

    Args:
        model: the policy at θ_0, a `LanguageModel`; is changed in place. Its dropout, if any, is
            for the caller to switch off. Under a penalty a copy of it is the reference, unless the
            task has one: it must be at θ_0 then also when a state is given, which holds none.
        task: prompts, rewards and the length of outputs.
        training: sizes, rates, checkpoints and limits.
        rng: source of randomness, see `run_rng`.
        evaluate: is called with the model at every checkpoint.
        state: of a checkpoint, to go on from there bit for bit; `model` and `rng` take it over.

    Returns:
        The checkpoints, as the run reaches them: it waits until the next is asked for.

    Raises:
        TypeError: if an argument is an object of another kind.
        ValueError: if the state does not fit model and optimizer.
        FloatingPointError: if a norm of gradient or parameters is NaN or beyond its limit.

    Examples:
        >>> import numpy as np
        >>> from ustat_grpo import Constant, Grpo, TrainingConfig, lm
        >>> policy = lm.shipped_policy("intermediate")
        >>> questions, _ = lm.arithmetic_questions(10, 5, rng=np.random.default_rng(0))
        >>> task = lm.Task(questions.prompts, questions.exact_match, max_tokens=6)
        >>> config = TrainingConfig(
        ...     estimator=Grpo(), batch_size=8, group_size=4, num_iterations=2,
        ...     schedule=Constant(0.01),
        ... )
        >>> training = lm.ModelTraining(config)
        >>> def look(model):
        ...     return {"accuracy": lm.expected_accuracy(model, questions.solutions)}
        >>> (checkpoint,) = lm.train(policy, task, training, rng=lm.run_rng(0), evaluate=look)
        >>> checkpoint.iteration, 0 < checkpoint.measured["accuracy"] < 1
        (2, True)
    """
    capable("model", model, "parameters", 'shipped_policy("intermediate")')
    require_kinds(task, (training,), (rng,), evaluate)
    trained = tuple(p.detach()[None] for p in model.parameters() if p.requires_grad)
    reference = reference_of(model, task, training.config.practice)  # before the state comes
    policies = Alone(model, reference)
    runs = ModelRuns(policies, trained, (training,), (rng,))
    steps = checkpoints_of(runs, task, evaluate, None if state is None else [state])
    return (checkpoint for (checkpoint,) in steps)


def require_kinds(
    task: Task,
    trainings: Sequence[ModelTraining],
    rngs: Sequence[torch.Generator],
    evaluate: object,
) -> None:
    """Raise TypeError unless each argument of `train` is an object that it can work with."""
    instance("task", task, Task, "Task(questions.prompts, questions.exact_match, max_tokens=6)")
    for training in trainings:
        instance("training", training, ModelTraining, "ModelTraining(config)")
    for rng in rngs:
        require_torch_generator(rng)
    capable("evaluate", evaluate, "__call__", 'lambda model: {"accuracy": ...}')


def reference_of(model: Any, task: Task, practice: Practice) -> Any:
    """Return π_ref, which training `model` does not change, or None without a penalty."""
    if not practice.penalty_weight:
        return None
    reference = model if task.reference is None else task.reference
    return deepcopy(model) if reference is model else reference


def save_state(state: Any, path: Path) -> None:
    """Write the state of a run, or a list of states, whole or not at all."""
    content = BytesIO()  # in memory: torch's own way of writing hides what the disk says
    torch.save(state, content)
    write_whole(path, lambda partial: partial.write_bytes(content.getbuffer()))


def load_state(path: Path) -> Any:
    """Read what `save_state` wrote, to the CPU; runs no code that the file may hold."""
    return torch.load(path, map_location="cpu", weights_only=True)


@dataclass(frozen=True, eq=False)
class ModelRuns:
    """E runs that step together.

    Args:
        policies: of the runs.
        parameters: what is trained, each of shape (E, ...); changed in place.
        trainings: one a run; estimators, schedules and sizes of groups are a run's own.
        rngs: one a run.
    """

    policies: JointPolicies
    parameters: Gradient
    trainings: tuple[ModelTraining, ...]
    rngs: tuple[torch.Generator, ...]

    def __len__(self) -> int:
        """E, the number of runs."""
        return len(self.trainings)


def checkpoints_of(
    runs: ModelRuns, task: Task, evaluate: Evaluate, states: Sequence[RunState] | None
) -> Iterator[tuple[Checkpoint, ...]]:
    """Take over the states, if any, and return the checkpoints of all runs; see `train`."""
    moments = runs.trainings[0].optimizer.moments(runs.parameters)
    done = 0 if states is None else _take_over(runs, moments, states)
    _require_bounded(runs, "parameters", runs.parameters, done)
    return _steps(runs, task, evaluate, moments, done)


def _steps(
    runs: ModelRuns, task: Task, evaluate: Evaluate, moments: Sequence[Gradient], done: int
) -> Iterator[tuple[Checkpoint, ...]]:
    """Take the steps after the first `done` iterations."""
    configs, optimizer = [run.config for run in runs.trainings], runs.trainings[0].optimizer
    shared = configs[0]
    rates = np.stack([each.schedule.rates(each.num_iterations) for each in configs], axis=1)
    seen: list[Tensor] = []  # mean rewards and norms of gradients since the last checkpoint
    steps = done * shared.practice.num_minibatches
    for iteration in range(done + 1, shared.num_iterations + 1):
        for gradient, rewards in policy_gradients(runs.policies, task, runs.trainings, runs.rngs):
            gradient = tuple(map(torch.Tensor.view_as, gradient, runs.parameters))
            norms = _require_bounded(runs, "gradient", gradient, iteration)
            steps += 1
            moves = optimizer.directions(gradient, runs.parameters, moments, steps)
            for parameter, move in zip(runs.parameters, moves, strict=True):
                rate = torch.as_tensor(rates[iteration - 1]).to(parameter)
                parameter.add_(move * rate.view(-1, *[1] * (move.ndim - 1)))
            _require_bounded(runs, "parameters", runs.parameters, iteration)
            seen.append(torch.stack([rewards, norms]))
        if iteration in shared.checkpoints:
            means = torch.stack(seen).mean(dim=0)
            seen = []
            yield tuple(
                Checkpoint(
                    iteration,
                    dict(evaluate(runs.policies.member(place))),
                    mean_reward=float(means[0, place]),
                    gradient_norm=float(means[1, place]),
                    state=_state(runs, moments, place, iteration),
                )
                for place in range(len(runs))
            )


def _require_bounded(
    runs: ModelRuns, what: str, stacked: Gradient, iteration: int
) -> Float[Tensor, " E"]:
    """Return the norms of the runs' gradients or parameters, or raise if one is no small number."""
    squares = [each.double().square().flatten(1).sum(dim=1) for each in stacked]
    norms = torch.stack(squares).sum(dim=0).sqrt().cpu()
    for place, norm in enumerate(norms.tolist()):
        limit = runs.trainings[place].norm_limit
        if not norm <= limit:
            which = f" of run {place}" if len(runs) > 1 else ""
            raise FloatingPointError(
                f"training{which} diverged at iteration {iteration}: the norm of the {what} must "
                f"be at most {limit:g}, got {norm:g}"
            )
    return norms


def _state(runs: ModelRuns, moments: Sequence[Gradient], place: int, iteration: int) -> RunState:
    """Return a copy of one run's state."""
    return {
        "iteration": iteration,
        "parameters": [each[place].clone() for each in runs.parameters],
        "moments": [[each[place].clone() for each in moment] for moment in moments],
        "rng": runs.rngs[place].get_state(),
    }


def _take_over(runs: ModelRuns, moments: Sequence[Gradient], states: Sequence[RunState]) -> int:
    """Go to these states, one a run; return the iteration that they are at."""
    iterations = {state["iteration"] for state in states}
    if len(states) != len(runs) or len(iterations) != 1:
        raise ValueError(
            f"states must be of {len(runs)} runs at the same iteration, got {len(states)} "
            f"at {sorted(iterations)}"
        )
    for place, state in enumerate(states):
        here = [[each[place] for each in part] for part in (runs.parameters, *moments)]
        there = [state["parameters"], *state["moments"]]
        if _shapes(here) != _shapes(there):
            raise ValueError(
                f"state must fit model and optimizer, {_shapes(here)}, got {_shapes(there)}"
            )
        for part, other in zip(here, there, strict=True):
            for ours, theirs in zip(part, other, strict=True):
                ours.copy_(theirs)
        runs.rngs[place].set_state(state["rng"])
    return iterations.pop()


def _shapes(parts: Sequence[Sequence[Tensor]]) -> list[list[tuple[int, ...]]]:
    return [[tuple(each.shape) for each in part] for part in parts]
