"""What one step of training costs: seconds and bytes, by part."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, cast

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from ustat_grpo.lm.training.actor_critic import Learner, Phase

Step = Callable[[Phase], object]
"""Takes one step of a method; is told who watches its parts."""

# The profiler would write a line to stderr whenever it starts and stops.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

_CHANGE = "[memory]"  # the profiler's name for one change of allocated memory


def phase_seconds(step: Step) -> dict[str, float]:
    """Return the wall-clock time of a step's parts, and of the whole as `step`."""
    found: dict[str, float] = {}

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        found[name] = time.perf_counter() - start

    start = time.perf_counter()
    step(phase)
    return {**found, "step": time.perf_counter() - start}


def phase_bytes(step: Step) -> dict[str, int]:
    """Return the most memory that a step's parts take beyond what was taken before the step.

    PyTorch's allocator reports every change, also those inside of its operations. What was there
    before the step, such as weights, is not in the number; gradients and activations are.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step(record_function)
    events = cast(Any, seen.profiler).kineto_results.events()
    changes = sorted((each for each in events if each.name() == _CHANGE), key=_start)
    levels = list(accumulate(each.nbytes() for each in changes))
    spans = {
        each.name(): (_start(each), _start(each) + each.duration_ns())
        for each in events
        if each.is_user_annotation()
    }
    return {
        name: max(
            (
                level
                for each, level in zip(changes, levels, strict=True)
                if low <= _start(each) < high
            ),
            default=0,
        )
        for name, (low, high) in spans.items()
    }


def _start(event: Any) -> int:
    return event.start_ns()


def held_bytes(learner: Learner) -> dict[str, int]:
    """Return the memory of a network between steps: weights, gradients if kept, moments."""
    weights = _bytes(learner.parameters)
    moments = sum(_bytes(each) for each in learner.moments)
    return {"weights": weights, "gradients": weights, "moments": moments}


def _bytes(tensors: tuple[torch.Tensor, ...]) -> int:
    return sum(each.untyped_storage().nbytes() for each in tensors)
