"""What a measurement of gradient errors compares, and the table that it ends in."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING

from ustat_grpo.estimators import Estimator
from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.checks import capable, integer
from ustat_grpo.monte_carlo.replications import Measured

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Comparison:
    """E estimators at S group sizes.

    Args:
        estimators: by name.
        group_sizes: different ones, in ascending order.
        batch_size: B i.i.d. prompts, or None for every prompt once.
    """

    estimators: Mapping[str, Estimator]
    group_sizes: Sequence[int]
    batch_size: int | None

    @classmethod
    def of(
        cls,
        estimators: Sequence[Estimator] | Mapping[str, Estimator],
        group_sizes: Sequence[int],
        batch_size: int | None,
    ) -> "Comparison":
        """Check what a user wants to be compared."""
        for name, value in {"estimators": estimators, "group_sizes": group_sizes}.items():
            if not isinstance(value, Iterable):
                raise ValueError(f"{name} must be a sequence, got {value!r}")
        named = _named(estimators)
        for estimator in named.values():
            capable("estimators", estimator, "advantages", "Grpo()")
        sizes = sorted({integer("group_size", size) for size in group_sizes})
        if not sizes or not named:
            raise ValueError("estimators and group_sizes must not be empty")
        if batch_size is not None:
            integer("batch_size", batch_size)
        return cls(named, sizes, batch_size)

    def table(self, num_slots: int, measured: Measured, bias_norm: Array) -> "pd.DataFrame":
        """Return one row a (group size, estimator).

        Args:
            num_slots: groups in a minibatch.
            measured: in S·E columns, of any shape.
            bias_norm: ‖mean ĝ − ∇J‖, likewise.
        """
        import pandas as pd

        columns = measured.mean.ravel(), measured.std_error.ravel(), bias_norm.ravel()
        keys = [(size, name) for size in self.group_sizes for name in self.estimators]
        rows = [
            {
                "estimator": name,
                "batch_size": num_slots,
                "group_size": size,
                "replications": measured.count,
                "mse": mean,
                "std_error": std_error,
                "bias_norm": bias,
            }
            for (size, name), mean, std_error, bias in zip(keys, *columns, strict=True)
        ]
        return pd.DataFrame(rows)


def label(estimator: Estimator) -> str:
    """Return the name of an estimator in tables: its class in snake case, and its parameters.

    Examples:
        >>> from ustat_grpo import Grpo, Shrinkage
        >>> from ustat_grpo.monte_carlo import label
        >>> label(Grpo()), label(Shrinkage(weight=0.5))
        ('grpo', 'shrinkage(weight=0.5, target=0.0)')
    """
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(estimator).__name__).lower()
    if not is_dataclass(estimator):
        return name
    values = [f"{field.name}={getattr(estimator, field.name)!r}" for field in fields(estimator)]
    return f"{name}({', '.join(values)})" if values else name


def _named(estimators: Sequence[Estimator] | Mapping[str, Estimator]) -> dict[str, Estimator]:
    """Return the estimators by name, or raise if two share one."""
    if isinstance(estimators, Mapping):
        return dict(estimators)
    named = {label(estimator): estimator for estimator in estimators}
    if len(named) < len(estimators):
        raise ValueError(f"estimators must differ, got {[label(e) for e in estimators]}")
    return named
