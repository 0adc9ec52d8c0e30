"""A sample as a table: a row an output with what its prompt repeats, or a row a block."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ustat_grpo.inputs.arrays import Array
from ustat_grpo.inputs.ids import IdError, Ids, ids_of
from ustat_grpo.inputs.quoting import quoted, quoted_names
from ustat_grpo.noise.sample import OutputSample
from ustat_grpo.noise.signs import SignSample

OUTPUT_COLUMNS = ("prompt", "reward", "score_norm", "gradient_norm", "gradient_product")
BATCH_COLUMN = "batch"
_LONGEST_INTEGER = 20  # digits of 64 bits; longer ones are texts

BLOCK_COLUMNS = ("prompt_noise", "oracle_noise", "residual_noise")

_HOW_TO_MEASURE = (
    "gradient_norm is ‖ĝ_b‖² of the GRPO gradient ĝ_b of a prompt's outputs, gradient_product is "
    "ĝ_b·Σ_c ĝ_c over the prompts of its batch; rewards and score norms alone cannot tell c₁, "
    "docs/planner.md says how to measure these"
)


@dataclass(frozen=True, eq=False)
class Table:
    """What a file holds, not yet checked.

    Args:
        columns: the cells of every column, all of one length.
        lines: the line of the file of every row.
    """

    columns: Mapping[str, Sequence[Any]]
    lines: Sequence[int]


def table_of(sample: OutputSample | SignSample) -> dict[str, list[Any]]:
    """Return the columns of a sample; doubles are not rounded."""
    if isinstance(sample, SignSample):
        return dict(zip(BLOCK_COLUMNS, sample.components.T.tolist(), strict=True))
    group = sample.groups.group
    values = (
        sample.prompts,
        sample.rewards,
        sample.score_norms,
        sample.gradient_norms[group],
        sample.gradient_products[group],
    )
    names: Sequence[str] = OUTPUT_COLUMNS
    columns = {name: each.tolist() for name, each in zip(names, values, strict=True)}
    if sample.batches is not None:
        columns[BATCH_COLUMN] = sample.batches[group].tolist()
    return columns


def sample_of(table: Table) -> OutputSample | SignSample:
    """Return the sample that a table holds.

    Raises:
        ValueError: if a column is unknown or missing, a cell is not a finite number, what belongs
            to a prompt differs between its rows, or as for a sample.
    """
    names = set(table.columns)
    if names & set(BLOCK_COLUMNS):
        require_names("columns", names, BLOCK_COLUMNS)
        columns = [_numbers(table, name) for name in BLOCK_COLUMNS]
        return SignSample(np.column_stack(columns))
    require_names("columns", names, OUTPUT_COLUMNS, [BATCH_COLUMN], hint=_HOW_TO_MEASURE)
    prompts = _ids(table, "prompt")

    def of_prompts(name: str, values: NDArray[Any]) -> NDArray[Any]:
        _require_agreement(table, name, values, prompts.first[prompts.place])
        return values[prompts.first]

    return OutputSample(
        rewards=_numbers(table, "reward"),
        score_norms=_numbers(table, "score_norm"),
        prompts=prompts.values,
        gradient_norms=of_prompts("gradient_norm", _numbers(table, "gradient_norm")),
        gradient_products=of_prompts("gradient_product", _numbers(table, "gradient_product")),
        batches=of_prompts("batch", _ids(table, "batch").values) if "batch" in names else None,
    )


def require_names(
    what: str,
    names: Iterable[str],
    required: Sequence[str],
    optional: Sequence[str] = (),
    hint: str = "",
) -> None:
    """Raise unless all required names are there and none that is unknown.

    Args:
        what: has the names.
        names: that are there.
        required: those that must be.
        optional: those that may be.
        hint: what to do if the columns of gradients are missing.
    """
    present = set(names)
    if unknown := sorted(present - {*required, *optional}):
        known = ", ".join(required) + "".join(f" and perhaps {name}" for name in optional)
        raise ValueError(f"{what} must be {known}, got also {quoted_names(map(repr, unknown))}")
    if missing := [name for name in required if name not in present]:
        told = f"; {hint}" if hint and {"gradient_norm", "gradient_product"} & {*missing} else ""
        raise ValueError(
            f"{what} must be {', '.join(required)}, "
            f"got none named {', '.join(map(repr, missing))}{told}"
        )


def _ids(table: Table, name: str) -> Ids:
    """Return cells as ids; texts are integers if all are spelled as such: 007 is not 7."""
    cells = table.columns[name]
    integers = list(map(_integer, cells))
    try:
        return ids_of(cells if None in integers else integers)
    except IdError as error:
        raise _error(table, error.row, name, error.requirement) from None


def _integer(cell: Any) -> int | None:
    """Return the integer that a text spells, None if it is none."""
    if not isinstance(cell, str) or len(cell) > _LONGEST_INTEGER:
        return None
    try:
        return int(cell) if str(int(cell)) == cell else None
    except ValueError:
        return None


def _numbers(table: Table, name: str) -> Array:
    cells = table.columns[name]
    values = np.fromiter(map(_number, cells), np.float64, len(cells))
    if not (finite := np.isfinite(values)).all():
        raise _error(table, int(finite.argmin()), name, "a finite number")
    return values


def _number(cell: Any) -> float:
    """Return a cell as a double, NaN if it is no number."""
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return np.nan


def _require_agreement(
    table: Table, name: str, values: NDArray[Any], first: NDArray[np.intp]
) -> None:
    """Raise unless a value is that of the row at which its prompt first appears."""
    if (differs := values != values[first]).any():
        row = int(differs.argmax())
        before = f"{quoted(table.columns[name][first[row]])} on line {table.lines[first[row]]}"
        prompt = quoted(table.columns["prompt"][row])
        raise _error(table, row, name, f"the same for all of prompt {prompt}, {before}")


def _error(table: Table, row: int, name: str, requirement: str) -> ValueError:
    cell = table.columns[name][row]
    return ValueError(
        f"line {table.lines[row]}, column {name}: must be {requirement}, got {quoted(cell)}"
    )
