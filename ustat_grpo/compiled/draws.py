"""Compiled draws: outputs from alias tables, and whole count vectors for large groups.

A *cell* is a pair (reward level l, action y), numbered l·K + y: all that an output leaves behind
in the gradient. Tables are padded to a power of two, so that the leading bits of one random word
choose a column without bias and the bits below decide between the column and its alias.

The counts of a large group are drawn without drawing its outputs. Independent Poisson counts, given
their total M, are multinomial; so Poisson counts of total mean a little below G, drawn again while
M > G, and then G − M single outputs, are exactly a multinomial vector of size G. The Poisson
distributions depend on the problem only, hence each count costs one look-up, at any G.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit, uint64
from numpy.typing import NDArray

from ustat_grpo.compiled.cache import compiled_plainly
from ustat_grpo.compiled.rng import word_at

_POISSON_REACH = 4096
"""Largest part of a group that one set of Poisson tables covers; tables grow with its root."""

_SLACK = 1.25
"""Standard deviations between the mean Poisson total and G: redraws against single outputs."""


class PoissonTables(NamedTuple):
    """Alias tables of Poisson counts, R rows (prompts) by C cells, of differing lengths."""

    entries: NDArray[np.uint64]  # all tables end to end
    first_entry: NDArray[np.int64]  # (R, C)
    shift: NDArray[np.uint64]  # (R, C): leaves the column number of a random word
    least_count: NDArray[np.int64]  # (R, C): the count of column 0
    repeats: NDArray[np.int64]  # (R,): parts into which the group is cut


class AliasRow(NamedTuple):
    """One of several alias tables of the same length, and how a random word looks it up."""

    tables: NDArray[np.uint64]  # (R, columns): see `alias_tables`
    row: int | np.uint64
    shift: np.uint64  # leaves of a word its column number: see `column_shift`


def padded_size(size: int) -> int:
    """Return the least power of two that is at least `size` and at least 2."""
    return 1 << max(1, (size - 1).bit_length())


_FULL = 2.0**-48
"""A few units in the last place: less than random words of 64 bits could tell."""


@compiled_plainly
def _full(share):
    """Return a column's share, 1 if it is 1 up to rounding."""
    return 1.0 if abs(share - 1.0) < _FULL else share


@compiled_plainly
def alias_table(probs):
    """Build Walker's alias table, threshold and alias packed in one word (Vose 1991).

    Args:
        probs: probabilities, shape (columns,), columns a power of two.

    Returns:
        One word a column: a random number of 64 − log₂(columns) bits below it keeps the column,
        else its lowest log₂(columns) bits are the alias.
    """
    columns = len(probs)
    keep = probs * columns
    # A column that is full up to rounding is full: else the processor's rounding would decide
    # which column becomes whose alias, and with it what every random number draws.
    for column in range(columns):
        keep[column] = _full(keep[column])
    aliases = np.arange(columns)
    small = [column for column in range(columns) if keep[column] < 1.0]
    large = [column for column in range(columns) if keep[column] >= 1.0]
    while len(small) > 0 and len(large) > 0:
        poor, rich = small.pop(), large[-1]
        aliases[poor] = rich
        keep[rich] = _full(keep[rich] - (1.0 - keep[poor]))
        if keep[rich] < 1.0:
            small.append(large.pop())
    for column in large:
        keep[column] = 1.0
    for column in small:  # left over by rounding: certain, unless the column is empty
        keep[column] = 1.0 if probs[column] > 0.0 else 0.0
        aliases[column] = np.argmax(probs)
    resolution = 2.0**64 / columns
    table = np.empty(columns, np.uint64)
    for column in range(columns):
        if keep[column] >= 1.0:
            table[column] = np.uint64(resolution)
        else:
            threshold = np.uint64(keep[column] * resolution) // uint64(columns) * uint64(columns)
            table[column] = threshold + uint64(aliases[column])
    return table


def alias_tables(probs: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Build one alias table a row; see `alias_table`. Columns must be a power of two."""
    return np.stack([alias_table(row) for row in probs])


@compiled_plainly
def _fill_poisson(rates, least, widths, ends, entries):
    """Fill the alias tables of Poisson counts least, least + 1, …, one a rate."""
    for index in range(len(rates)):
        rate = rates[index]
        mass = np.zeros(widths[index])
        for column in range(widths[index]):
            count = least[index] + column
            if rate > 0.0:
                mass[column] = math.exp(count * math.log(rate) - rate - math.lgamma(count + 1.0))
            elif count == 0:
                mass[column] = 1.0
        start = ends[index] - widths[index]
        entries[start : ends[index]] = alias_table(mass / mass.sum())


def poisson_tables(probs: NDArray[np.float64], group_sizes: Sequence[int]) -> PoissonTables:
    """Tabulate the Poisson counts of each cell, for groups of each size.

    The window of each table leaves out less mass than double precision can add.

    Args:
        probs: cell probabilities, shape (P, C).
        group_sizes: Q sizes G, whose tables follow each other: R = Q·P rows.
    """
    sizes = np.asarray(group_sizes, dtype=float)
    repeats = np.ceil(sizes / _POISSON_REACH).astype(np.int64)
    means = np.maximum(sizes - _SLACK * np.sqrt(sizes), 0.0) / repeats
    rates = (means[:, None, None] * probs).reshape(-1, probs.shape[1])
    widths = 2 ** np.ceil(np.log2(18 * np.sqrt(rates) + 24)).astype(np.int64)
    least = np.where(rates < widths / 2, 0, rates - widths / 2).astype(np.int64)
    ends = np.cumsum(widths)
    entries = np.empty(ends[-1] if len(ends) else 0, np.uint64)
    _fill_poisson(rates.ravel(), least.ravel(), widths.ravel(), ends, entries)
    return PoissonTables(
        entries,
        (ends - widths.ravel()).reshape(rates.shape),
        (64 - np.log2(widths)).astype(np.uint64),
        least,
        np.repeat(repeats, len(probs)),
    )


@njit(inline="always")
def column_shift(columns):
    """Return the shift that leaves of a word its column number."""
    shift = uint64(64)
    while columns > 1:
        columns //= 2
        shift -= uint64(1)
    return shift


@njit(inline="always")
def _keep_or_alias(word, column, entry, shift):
    """Return the column or its alias, without a branch.

    The bits that hold the alias are set in the word too, so that they never decide.
    """
    alias_bits = (uint64(1) << (uint64(64) - shift)) - uint64(1)
    below = (word & ((uint64(1) << shift) - uint64(1))) | alias_bits
    return column if below < entry else entry & alias_bits


@njit(inline="always")
def alias_row(tables, row):
    """Return a row of alias tables."""
    return AliasRow(tables, row, column_shift(tables.shape[1]))


@njit(inline="always")
def draw_cell(stream, position, aliases):
    """Return the cell of the output at one position of a stream."""
    return cell_of(word_at(stream, position), aliases)


@njit(inline="always")
def cell_of(word, aliases):
    """Return the cell that a random word stands for."""
    column = word >> aliases.shift
    return _keep_or_alias(word, column, aliases.tables[aliases.row, column], aliases.shift)


@njit(inline="always")
def draw_cells(stream, first, last, aliases, counts):
    """Add the outputs at positions first … last − 1 of a stream to the cell counts."""
    for position in range(first, last):
        counts[draw_cell(stream, position, aliases)] += 1


@njit(inline="always")
def draw_counts(stream, group_size, tables, table_row, aliases, counts):
    """Fill the cell counts of one whole group; see the module's docstring.

    Args:
        stream: of the group.
        group_size: G.
        tables: the `PoissonTables`.
        table_row: the row of `tables` for this prompt and G.
        aliases: the `AliasRow` of the prompt, for the outputs that are drawn singly.
        counts: output, shape (C,).
    """
    position = 0
    cells = len(counts)
    repeats = tables.repeats[table_row]
    total = group_size + 1
    while total > group_size:
        total = 0
        for cell in range(cells):
            counts[cell] = tables.least_count[table_row, cell] * repeats
            shift = tables.shift[table_row, cell]
            offset = uint64(tables.first_entry[table_row, cell])
            for _ in range(repeats):
                word = word_at(stream, position)
                position += 1
                column = word >> shift
                entry = tables.entries[offset + column]
                counts[cell] += np.int64(_keep_or_alias(word, column, entry, shift))
            total += counts[cell]
    draw_cells(stream, position, position + group_size - total, aliases, counts)


@njit(inline="always")
def draw_prompts(stream, tables, prompts):
    """Draw i.i.d. prompts, slot by slot, so that a larger batch begins with a smaller one."""
    aliases = alias_row(tables, 0)
    for slot in range(len(prompts)):
        prompts[slot] = draw_cell(stream, slot, aliases)
