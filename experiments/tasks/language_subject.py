"""A language task and its policies as one subject."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from experiments.running.threads import use_threads
from experiments.tasks import language_errors
from experiments.tasks.language import Panel
from experiments.tasks.policies import PosedTask
from experiments.tasks.pool_table import require_pool
from experiments.tasks.subject import ErrorsAsked, FirstBatch, FirstPolicy
from ustat_grpo.noise import OutputSample


@dataclass(frozen=True)
class LanguageSubject:
    """Policies that answer the questions of a task; see `experiments.tasks.subject.Subject`."""

    posed: PosedTask

    @property
    def name(self) -> str:
        """The task's name."""
        return self.posed.task.name

    def prepare(self) -> dict[str, Panel]:
        """Build the panels, or raise."""
        return self.posed.panels()

    def require_errors(self, asked: ErrorsAsked) -> None:
        """Check that groups can be cut from the outputs to each question."""
        require_pool(self.posed.task.num_outputs, asked)

    def gradient_errors(self, asked: ErrorsAsked) -> pd.DataFrame:
        """Measure them by a pool of outputs, and where ∇J is exact by whole minibatches too."""
        return language_errors.measure(self.posed.task, self.posed.panels(), asked)

    @contextmanager
    def first_policies(self, threads: int | None) -> Iterator[Iterator[FirstPolicy]]:
        """Load the policy at which runs begin; its outputs are to questions of the train set."""
        use_threads(threads or 1)
        draw = partial(language_sample, self.posed.training_sets().train)
        yield iter([FirstPolicy(self.posed.start, draw, None)])


def language_sample(panel: Panel, size: FirstBatch, rng: np.random.Generator) -> OutputSample:
    """Sample outputs to questions drawn i.i.d., and measure them in one pass.

    Args:
        panel: a policy and the questions that it learns from.
        size: of the batch.
        rng: gives the seed of the outputs.
    """
    import torch

    from ustat_grpo.lm.sampling import sample_groups
    from ustat_grpo.lm.scores.output_sample import measured_outputs
    from ustat_grpo.lm.training.training import run_rng

    questions = torch.as_tensor(rng.integers(len(panel.prompts), size=size.num_prompts))
    questions = questions.to(panel.prompts.tokens.device)
    rollouts = sample_groups(
        panel.model,
        panel.prompts[questions],
        size.num_outputs,
        max_tokens=panel.max_tokens,
        rng=run_rng(int(rng.integers(2**32))),
    )
    return measured_outputs(panel.model, rollouts, panel.reward(rollouts, questions))
