"""Train the arithmetic policies from scratch: three stages of one supervised run.

A stage ends when sampled outputs would reach its accuracy on the held-out questions; that accuracy
is exact. Try

    python -m experiments pretrain
    python -m experiments pretrain ~targets '+targets={half: 0.5}' policies=my_policies
"""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from rich.console import Console

from experiments.running.app import App
from experiments.running.options import Scale, require_seed_and_threads
from experiments.running.threads import use_threads
from experiments.tasks.language import Ranges
from ustat_grpo.inputs.checks import integer, real

if TYPE_CHECKING:
    from ustat_grpo.lm.models.transformer import Transformer
    from ustat_grpo.lm.questions.questions import Questions
    from ustat_grpo.lm.training.pretraining import Pretraining, Progress


@dataclass
class Shape:
    """The sizes of the transformer."""

    width: int = 56
    num_layers: int = 3
    num_heads: int = 4
    hidden_width: int = 224
    tied: bool = False


@dataclass
class Settings:
    """How it is trained: the defaults of `ustat_grpo.lm.training.pretraining.Pretraining`."""

    batch_size: int = 200
    num_steps: int = 14_000
    learning_rate: float = 3e-3
    warmup: int = 200
    weight_decay: float = 0.1
    problems_per_kind: int = 20_000
    steps_per_check: int = 100

    def build(self) -> "Pretraining":
        """Return the settings of the library."""
        from ustat_grpo.lm.training.pretraining import Pretraining

        return Pretraining(**asdict(self))


@dataclass
class Pretrain:
    """The configuration of this app."""

    scale: Scale = field(default_factory=Scale)
    targets: dict[str, float] = field(default_factory=dict)
    shape: Shape = field(default_factory=Shape)
    settings: Settings = field(default_factory=Settings)
    ranges: Ranges = field(default_factory=Ranges)
    num_held_out: int = 500
    policies: str = "results/policies"  # where the checkpoints go
    seed: int = 2603
    threads: int | None = None  # null takes all cores
    stale: str = "refuse"  # or rerun, or keep: jobs that other code or input files finished
    output: str = "results"

    def __post_init__(self) -> None:
        """Check the ranges; a mistake is found before any work starts."""
        accuracies = list(self.targets.values())
        for name, accuracy in self.targets.items():
            real(f"targets.{name}", accuracy, above=0.0, below=1.0)
        if not accuracies or accuracies != sorted(accuracies):
            raise ValueError(f"targets must hold rising accuracies, got {self.targets}")
        integer("num_held_out", self.num_held_out)
        require_seed_and_threads(self.seed, self.threads)

    @property
    def outputs(self) -> list[Path]:
        """The checkpoints, which a finished job has written beside its data."""
        return [Path(self.policies) / f"{name}.safetensors" for name in self.targets]

    def model(self) -> "Transformer":
        """Return the untrained transformer."""
        import torch

        from ustat_grpo.lm.models.transformer import Transformer, TransformerShape
        from ustat_grpo.lm.questions.questions import CONTEXT_LENGTH, TOKENIZER

        torch.manual_seed(self.seed)  # layers take their first weights from torch's own generator
        return Transformer(
            TransformerShape(TOKENIZER.vocabulary_size, CONTEXT_LENGTH, **asdict(self.shape))
        )

    def held_out(self, rng: np.random.Generator) -> "Questions":
        """Return the questions that the accuracy is that of."""
        from ustat_grpo.lm.questions.questions import arithmetic_questions

        return arithmetic_questions(5, self.num_held_out, rng=rng, ranges=self.ranges.build())[1]


def run(config: Pretrain) -> pd.DataFrame:
    """Train, write a checkpoint at each target, and return the training curve."""
    from ustat_grpo.lm.models.checkpoints import save_policy
    from ustat_grpo.lm.training.pretraining import pretrain

    console, started = Console(), time.perf_counter()
    use_threads(config.threads)
    model, settings, ranges = config.model(), config.settings.build(), config.ranges.build()
    rng = np.random.default_rng(config.seed)
    held_out = config.held_out(rng)
    paths = dict(zip(config.targets, config.outputs, strict=True))
    rows, left = [], dict(config.targets)
    for progress in pretrain(model, held_out, settings, rng=rng, ranges=ranges):
        minutes = (time.perf_counter() - started) / 60
        reached = [name for name, target in left.items() if progress.accuracy >= target]
        for name in reached:
            save_policy(model, paths[name])
            del left[name]
        rows.append(_row(progress, reached))
        console.print(
            f"step {progress.step}, {minutes:.1f} min: accuracy {progress.accuracy:.3f}"
            + "".join(f", {name} written" for name in reached)
        )
        if not left:
            return pd.DataFrame(rows)
    raise ValueError(
        f"targets must be reached within settings.num_steps={settings.num_steps}, got accuracy "
        f"{rows[-1]['accuracy']:.3f} and these left: {left}"
    )


def _row(progress: "Progress", reached: list[str]) -> dict[str, float | str]:
    return {
        "task": "arithmetic: pretraining",
        "policy": reached[-1] if reached else "",
        "step": progress.step,
        "loss": progress.loss,
        "accuracy": progress.accuracy,
        **progress.by_kind,
    }


def describe(config: Pretrain) -> str:
    """Return the readable part of the results folder's name."""
    return "_".join(config.targets)


def prepare(config: Pretrain) -> None:
    """Build model, settings and questions, or raise."""
    config.model()
    config.settings.build()
    config.held_out(np.random.default_rng(config.seed))


APP = App("pretrain", Pretrain, run, describe, prepare)
