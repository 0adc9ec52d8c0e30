"""What a run of Algorithm 1 or 2 does, whatever it is run on."""

from collections.abc import Sequence
from dataclasses import dataclass

from ustat_grpo.estimators import Estimator
from ustat_grpo.inputs.checks import capable, increasing, instance, integer, sequence
from ustat_grpo.optimization.practice import Practice
from ustat_grpo.optimization.regions import Box
from ustat_grpo.optimization.schedules import Schedule

PROMPT_SAMPLING = ("iid", "without_replacement", "epochs")
"""How minibatches are drawn: i.i.d. from f; distinct prompts within each; epochs, each a shuffle
of all prompts, which minibatches take up one after the other."""

ON_POLICY = Practice()
"""Algorithm 1: each output is used once, and nothing is added to the policy gradient."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """One run of Algorithm 1, θ ← Π(θ + η_i ĝ(θ)), or with `practice` of Algorithm 2.

    Bandits (`optimize`), decision processes (`environments.optimize_mdp`), environments
    (`environments.train`) and language models (`lm.train`, in an `lm.ModelTraining`) all take it.

    Args:
        estimator: turns the rewards of each group into advantages.
        batch_size: B, prompts of an iteration.
        group_size: G, outputs of each prompt.
        num_iterations: n.
        schedule: of the learning rate η_i.
        checkpoints: increasing iterations at which to look at the run; the last one if empty.
        keep_theta: whether to keep θ at the checkpoints of many runs, 8·R·C·d bytes.
        projection: Θ; θ is unconstrained if None.
        prompt_sampling: one of `PROMPT_SAMPLING`.
        practice: how outputs are used; once, by default.

    Raises:
        TypeError: if estimator, schedule, projection or practice is an object of another kind.
        ValueError: if a number is out of its range, or minibatches would be of unequal size.

    Examples:
        >>> from ustat_grpo import Constant, Grpo, TrainingConfig
        >>> config = TrainingConfig(
        ...     estimator=Grpo(),
        ...     batch_size=32,
        ...     group_size=8,
        ...     num_iterations=100,
        ...     schedule=Constant(0.5),
        ... )
        >>> config.budget, config.checkpoints
        (256, (100,))
    """

    estimator: Estimator
    batch_size: int
    group_size: int
    num_iterations: int
    schedule: Schedule
    checkpoints: Sequence[int] = ()
    keep_theta: bool = True
    projection: Box | None = None
    prompt_sampling: str = "iid"
    practice: Practice = ON_POLICY

    def __post_init__(self) -> None:
        """Check every part."""
        self._require_kinds()
        for name in ("batch_size", "group_size", "num_iterations"):
            integer(name, getattr(self, name))
        self.practice.require_batch_size(self.batch_size)
        if self.prompt_sampling not in PROMPT_SAMPLING:
            raise ValueError(
                f"prompt_sampling must be among {list(PROMPT_SAMPLING)}, "
                f"got {self.prompt_sampling!r}"
            )
        wanted = sequence("checkpoints", self.checkpoints) or [self.num_iterations]
        points = increasing("checkpoints", wanted, at_most=self.num_iterations)
        object.__setattr__(self, "checkpoints", tuple(map(int, points)))

    def _require_kinds(self) -> None:
        """Raise TypeError unless each part can do what a run asks of it."""
        capable("estimator", self.estimator, "advantages", "Grpo()")
        capable("schedule", self.schedule, "rates", "Constant(0.1)")
        if self.projection is not None:
            instance("projection", self.projection, Box, "Box(-1.0, 1.0)")
        instance("practice", self.practice, Practice, "Practice()")

    @property
    def budget(self) -> int:
        """N = B·G, outputs of an iteration."""
        return self.batch_size * self.group_size

    def require_algorithm_1(self, where: str) -> None:
        """Raise ValueError unless prompts are i.i.d. and each output is used once.

        Args:
            where: what can run no more than that, in words.
        """
        if self.prompt_sampling != "iid":
            raise ValueError(
                f"prompt_sampling must be 'iid' on {where}, got {self.prompt_sampling!r}"
            )
        if not self.practice.is_on_policy:
            raise ValueError(
                f"practice must have one minibatch and no penalty on {where}, got {self.practice!r}"
            )


def require_training_config(config: object) -> None:
    """Raise TypeError unless `config` is a TrainingConfig."""
    such_as = "TrainingConfig(estimator=Grpo(), batch_size=8, ...)"
    instance("config", config, TrainingConfig, such_as)
