"""Time of all that noise estimates need of a batch, against its plain forward and backward pass.

All ways see the same outputs, all different, and read each with a prompt of its own.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.score_norms import forward_backward, scores_one_by_one
from benchmarks.timing import AtMost, Row, median_time, row
from ustat_grpo.lm import Prompts, Rollouts, Transformer, TransformerShape, measured_outputs
from ustat_grpo.lm.scoring import answers_of
from ustat_grpo.noise import OutputSample

LARGEST_TIME_RATIO = AtMost(1.5)
LARGEST_ERROR = AtMost(1e-6)
GROUP_SIZE = 8


class Case(NamedTuple):
    """A model, how many prompts it is asked, and how long prompts and outputs are."""

    shape: TransformerShape
    num_prompts: int
    prompt: int
    output: int

    def build(self) -> tuple[Transformer, Rollouts, Tensor]:
        """Return the model, random outputs and random rewards."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model, vocabulary = Transformer(self.shape), self.shape.vocabulary_size
            prompts = torch.randint(vocabulary, (self.num_prompts, self.prompt)).tolist()
            outputs = torch.randint(vocabulary, (self.num_prompts, GROUP_SIZE, self.output))
            rewards = torch.rand(self.num_prompts, GROUP_SIZE)
        mask = torch.ones_like(outputs, dtype=torch.bool)
        asked = Prompts.of(prompts, pad_token=0)
        return model, Rollouts(asked, outputs, mask, torch.zeros(outputs.shape)), rewards


CASES = {
    "10⁵ weights": Case(TransformerShape(19), num_prompts=64, prompt=11, output=6),
    "4 layers of width 256": Case(
        TransformerShape(4096, 64, width=256, num_layers=4, hidden_width=1024),
        num_prompts=8,
        prompt=16,
        output=48,
    ),
}


def rows(repetitions: int = 5) -> list[Row]:
    """Compare with scores one by one, then time."""
    found = [row("error", None, "noise of a batch", "", _error(), LARGEST_ERROR)]
    for name, case in CASES.items():
        model, rollouts, rewards = case.build()
        ways = {
            "forward + backward": partial(forward_backward, model, answers_of(rollouts)),
            "noise of a batch": partial(measured_outputs, model, rollouts, rewards),
        }
        for way in ways.values():
            way()  # fills caches
        turns = [
            [median_time(way, 1, calls=1) for way in ways.values()] for _ in range(repetitions)
        ]
        plain, ours = np.transpose(turns)
        for way, seconds in zip(ways, (plain, ours), strict=True):
            found.append(row("time", None, f"{way}, {name}", "ms", 1e3 * float(np.median(seconds))))
        ratio = float(np.median(ours / plain))
        label = f"noise of a batch, {name}"
        found.append(row("time ratio", None, label, "×", ratio, LARGEST_TIME_RATIO))
    return found


def _error() -> float:
    """Return the largest difference to autograd one by one, in units of the largest entry."""
    case = next(iter(CASES.values()))._replace(num_prompts=4)
    model, rollouts, rewards = case.build()
    found = measured_outputs(model, rollouts, rewards)
    scores = scores_one_by_one(model.double(), answers_of(rollouts)).numpy()
    right = OutputSample.from_scores(list(scores.reshape(4, GROUP_SIZE, -1)), list(rewards.numpy()))
    return max(
        float(np.abs(getattr(found, name) - expected).max() / np.abs(expected).max())
        for name in ("score_norms", "gradient_norms", "gradient_products")
        for expected in [getattr(right, name)]
    )
