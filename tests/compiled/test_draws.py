"""Draws against their distributions: tables read back exactly, counts against the multinomial."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ustat_grpo import Snapshot
from ustat_grpo.compiled import draws
from ustat_grpo.monte_carlo import kernels
from ustat_grpo.monte_carlo.layout import Draws
from ustat_grpo.monte_carlo.simulation import tables_of

KEEP_OR_ALIAS = draws._keep_or_alias.py_func
REPLICATES = 8000
LARGE_GROUPS = [kernels.LARGEST_DRAWN_GROUP + 1, 1000, 5000]  # the last in more than one part


def table_mass(table: np.ndarray) -> np.ndarray:
    """Read the probabilities of a packed table back, as exact integers out of 2⁶⁴."""
    columns = len(table)
    shift = np.uint64(64 - columns.bit_length() + 1)
    part = 2 ** int(shift)
    mass = np.zeros(columns, dtype=object)
    for column, entry in enumerate(table):
        low, high = 0, part  # `low` numbers keep the column
        while low < high:
            middle = (low + high) // 2
            word = np.uint64(column * part + middle)
            alias = KEEP_OR_ALIAS(word, np.uint64(columns), entry, shift)
            low, high = (middle + 1, high) if alias == columns else (low, middle)
        mass[column] += low
        if low < part:
            last = np.uint64(column * part + part - 1)
            mass[int(KEEP_OR_ALIAS(last, np.uint64(columns), entry, shift))] += part - low
    return mass


def probabilities(kind: str, columns: int) -> np.ndarray:
    rng = np.random.default_rng(columns)
    match kind:
        case "random":
            return rng.dirichlet(np.ones(columns))
        case "uneven":  # most cells all but impossible
            return rng.dirichlet(np.full(columns, 0.02))
        case "holes":
            probs = rng.dirichlet(np.ones(columns)) * (np.arange(columns) % 2)
            return probs / probs.sum()
        case "certain":
            return np.eye(columns)[columns // 2]
        case "uniform":
            return np.full(columns, 1 / columns)
    raise AssertionError(kind)


@pytest.mark.parametrize("columns", [2, 8, 64])
@pytest.mark.parametrize("kind", ["random", "uneven", "holes", "certain", "uniform"])
def test_alias_table_holds_its_probabilities(kind, columns):
    probs = probabilities(kind, columns)
    mass = table_mass(draws.alias_table(probs))
    assert mass.sum() == 2**64
    assert max(abs(mass / 2**64 - probs)) <= 2.0**-50


@pytest.mark.parametrize("columns", [2, 8, 64])
@pytest.mark.parametrize("kind", ["holes", "certain"])
def test_empty_cells_are_never_drawn(kind, columns):
    probs = probabilities(kind, columns)
    mass = table_mass(draws.alias_table(probs))
    assert not any(mass[probs == 0])


@pytest.mark.parametrize(("size", "padded"), [(1, 2), (2, 2), (3, 4), (32, 32), (33, 64)])
def test_padded_size_is_the_next_power_of_two(size, padded):
    assert draws.padded_size(size) == padded


@pytest.mark.parametrize("group_size", [257, 1000, 4096, 5000, 100_000])
def test_poisson_tables_hold_the_poisson_distribution(group_size):
    """Also catches a window that cuts off 1e-13 of the mass."""
    probs = np.array([[0.6, 0.3, 0.099, 0.001, 0.0]])
    tables = draws.poisson_tables(probs, [group_size])
    rates = []
    for cell in range(probs.shape[1]):
        columns = 2 ** (64 - int(tables.shift[0, cell]))
        first = tables.first_entry[0, cell]
        entries = tables.entries[first : first + columns]
        kept = np.minimum(entries // np.uint64(columns) * np.uint64(columns) / 2.0**64, 1 / columns)
        aliases = (entries % np.uint64(columns)).astype(int)
        mass = kept + np.bincount(aliases, 1 / columns - kept, minlength=columns)
        counts = tables.least_count[0, cell] + np.arange(columns)
        rate = float(mass @ counts)
        rates.append(rate)
        np.testing.assert_allclose(mass, stats.poisson.pmf(counts, rate), atol=1e-13, rtol=0)
        assert stats.poisson.cdf(counts[0] - 1, rate) + stats.poisson.sf(counts[-1], rate) < 1e-16
    total = sum(rates)
    np.testing.assert_allclose(rates, probs[0] * total, rtol=1e-9)
    assert 0 < group_size - total * int(tables.repeats[0]) < 2 * np.sqrt(group_size)


def problem_with_holes() -> Snapshot:
    """Three prompts, one of probability zero; five actions, one impossible; three levels."""
    probs = np.array([[0.5, 0.2, 0.0, 0.29, 0.01], [0.2] * 5, [0.9, 0.1, 0.0, 0.0, 0.0]])
    rewards = np.random.default_rng(5).dirichlet(np.ones(3), size=(3, 5))
    rewards[0, 0] = [0.0, 1.0, 0.0]
    return Snapshot(np.array([0.3, 0.7, 0.0]), probs, np.array([-1.0, 0.5, 2.0]), rewards)


def drawn_counts(sizes: list[int], replicates: int = REPLICATES) -> tuple[np.ndarray, np.ndarray]:
    """Counts (S, replicates, P, C) of every prompt once, and the cell probabilities (P, C)."""
    snapshot = problem_with_holes()
    tables = tables_of(snapshot, sizes)
    prompts = np.empty((replicates, 3), np.int64)
    counts = np.zeros((len(sizes), replicates, 3, len(tables.cell_rewards)), np.int64)
    kernels.count_cells(tables, np.array(sizes), Draws(np.uint64(11), 0, True), prompts, counts)
    joint = snapshot.action_probs[:, None] * snapshot.reward_probs.transpose(0, 2, 1)
    cells = np.zeros((3, counts.shape[-1]))
    cells[:, :15] = joint.reshape(3, 15)
    return counts, cells


@pytest.fixture(scope="module")
def sizes() -> list[int]:
    return [2, 9, 256, *LARGE_GROUPS]


@pytest.fixture(scope="module")
def counts(sizes) -> tuple[np.ndarray, np.ndarray]:
    return drawn_counts(sizes)


def test_counts_sum_to_the_group_size_and_miss_empty_cells(counts, sizes):
    drawn, cells = counts
    for group_size, each in zip(sizes, drawn, strict=True):
        assert (each.sum(axis=-1) == group_size).all()
    assert (drawn >= 0).all()
    assert not drawn[:, :, cells == 0].any()


def moment_scores(drawn: np.ndarray, probs: np.ndarray, group_size: int, *, coupled: float = 1.0):
    """Mean and covariance of counts (n, C) against the multinomial, in standard errors.

    With `coupled=0` against independent Poisson counts of the same means.
    """
    live = probs > 0
    deviations = drawn[:, live] - group_size * probs[live]
    law = group_size * (np.diag(probs[live]) - coupled * np.outer(probs[live], probs[live]))
    products = deviations[:, :, None] * deviations[:, None, :]
    root = np.sqrt(len(drawn))
    mean = deviations.mean(axis=0) / deviations.std(axis=0) * root
    covariance = (products.mean(axis=0) - law) / products.std(axis=0) * root
    return np.append(mean, covariance[np.triu_indices(live.sum())])


@pytest.mark.parametrize("index", range(2 + 1 + len(LARGE_GROUPS)))
def test_counts_have_the_moments_of_the_multinomial(counts, sizes, index):
    """Mean and full covariance; would see a variance that is 5 % off."""
    drawn, cells = counts
    for prompt in range(3):
        scores = moment_scores(drawn[index, :, prompt], cells[prompt], sizes[index])
        assert abs(scores).max() <= 4


def test_independent_poisson_counts_would_be_caught(counts, sizes):
    """Mutant: the conditioning on the total, without which cells are uncorrelated."""
    drawn, cells = counts
    scores = moment_scores(drawn[-1, :, 0], cells[0], sizes[-1], coupled=0.0)
    assert abs(scores).max() > 4


@pytest.mark.parametrize("index", [2, 3, 4, 5])
def test_a_count_is_binomial(counts, sizes, index):
    """Chi-square on the whole distribution, tails pooled; not only two moments."""
    drawn, cells = counts
    for cell in (3, 5):
        binomial = stats.binom(sizes[index], cells[0, cell])
        edges = np.unique(binomial.ppf(np.linspace(0.02, 0.98, 25)))
        mass = np.diff(binomial.cdf([-1, *edges, sizes[index]]))
        places = np.searchsorted(edges, drawn[index, :, 0, cell])
        observed = np.bincount(places, minlength=len(mass))
        kept = mass > 0
        result = stats.chisquare(observed[kept], mass[kept] / mass[kept].sum() * REPLICATES)
        assert result.pvalue > 6e-5  # two-sided |z| = 4


def test_small_groups_are_nested(counts):
    """A group of 256 begins with the outputs of the group of 9, and that with those of 2."""
    drawn, _ = counts
    assert (drawn[0] <= drawn[1]).all()
    assert (drawn[1] <= drawn[2]).all()


def test_large_groups_are_independent_of_small_ones(counts, sizes):
    drawn, cells = counts
    for first, second in ((2, 3), (3, 4), (4, 5)):
        a = drawn[first, :, 0, 5] - sizes[first] * cells[0, 5]
        b = drawn[second, :, 0, 5] - sizes[second] * cells[0, 5]
        assert abs(np.corrcoef(a, b)[0, 1]) * np.sqrt(REPLICATES) <= 4


def test_prompts_follow_their_probabilities_slot_by_slot():
    """A larger batch begins with a smaller one; a prompt of probability zero never comes."""
    tables = tables_of(problem_with_holes(), [2])
    drawn = []
    for batch_size in (3, 7):
        prompts = np.empty((REPLICATES, batch_size), np.int64)
        counts = np.zeros((1, REPLICATES, batch_size, len(tables.cell_rewards)), np.int64)
        draws = Draws(np.uint64(4), first=0, all_once=False)
        kernels.count_cells(tables, np.array([2]), draws, prompts, counts)
        drawn.append(prompts)
    np.testing.assert_array_equal(drawn[0], drawn[1][:, :3])
    share = np.bincount(drawn[1].ravel(), minlength=3) / drawn[1].size
    assert share[2] == 0
    assert abs(share[0] - 0.3) / np.sqrt(0.21 / drawn[1].size) <= 4
    pairs = (drawn[1][:, :-1] == 0) & (drawn[1][:, 1:] == 0)
    assert abs(pairs.mean() - 0.09) / np.sqrt(0.09 * 0.91 * 1.6 / pairs.size) <= 4
