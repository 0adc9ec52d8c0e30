"""Every claim of every chapter holds, and a false one is noticed."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

import theory
from support.chapter_claims import claims_of
from theory import claims
from theory.__main__ import main
from theory.enumeration import (
    Outcomes,
    gradient_distribution,
    group_errors,
    minibatch_error,
    ordered_groups,
    outcomes,
    unordered_groups,
)
from theory.problems import random_problem, small_problems, tiny_problems, two_actions
from ustat_grpo import GroupMean, Grpo, Oracle, Vanilla

CHAPTERS = theory.chapters()


@pytest.fixture
def chapter_of(monkeypatch):
    """Put one chapter with the given claims in the place of all others."""

    def replace(*made):
        chapter = SimpleNamespace(ITEM="Lemma 0", TITLE="a test", claims=lambda: iter(made))
        monkeypatch.setattr(theory, "chapters", lambda *names: (chapter,))

    return replace


class TestChapters:
    @pytest.mark.parametrize("name", theory.CHAPTERS)
    def test_every_claim_holds(self, name, shared_folder):
        failures = [claim for claim in claims_of(shared_folder, name) if not claim.holds]
        assert failures == []

    @pytest.mark.parametrize("name", theory.CHAPTERS)
    def test_states_what_it_proves(self, name, shared_folder):
        (chapter,) = theory.chapters(name)
        statements = [claim.statement for claim in claims_of(shared_folder, name)]
        assert chapter.ITEM and chapter.TITLE and statements
        assert len(set(statements)) == len(statements)
        assert "**Statement.**" in chapter.__doc__ or chapter.ITEM == "Errata"

    def test_are_deterministic(self):
        for chapter in theory.chapters("u_statistic", "minibatch_error"):
            assert list(chapter.claims()) == list(chapter.claims())

    def test_come_in_the_order_of_the_paper_whatever_was_asked(self):
        found = theory.chapters("minibatch_error", "u_statistic")
        assert [chapter.ITEM for chapter in found] == ["Lemma 1", "Proposition 3"]

    def test_unknown_chapter(self):
        with pytest.raises(ValueError, match=r"^chapter must be one of .*, got 'lemma'$"):
            theory.chapters("lemma")


class TestCommand:
    def test_exits_0_and_counts_when_all_hold(self, capsys):
        assert main(["u_statistic"]) == 0
        printed = capsys.readouterr().out
        assert "Lemma 1" in printed and "claims hold, 0 fail" in printed

    def test_exits_2_with_one_line_for_an_unknown_chapter(self, capsys):
        assert main(["lemma"]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1

    def test_exits_1_when_a_claim_is_false(self, chapter_of, capsys):
        truth = claims.equal("1 + 1 = 2", claims.IDENTITY, 2.0, 1.0 + 1.0)
        falsehood = claims.equal("1 + 1 = 3", claims.IDENTITY, 3.0, 1.0 + 1.0)
        chapter_of(truth, falsehood)
        assert main([]) == 1
        printed = capsys.readouterr().out
        assert "FAILS" in printed and "1 claims hold, 1 fail" in printed


class TestClaims:
    def test_equal_reports_the_worst_entry(self):
        claim = claims.equal("", claims.IDENTITY, [1.0, 2.0, 4.0], [1.0, 2.5, 4.1])
        assert (claim.expected, claim.obtained) == (2.0, 2.5)
        assert claim.error == pytest.approx(0.5 / 4)
        assert not claim.holds

    def test_equal_shows_the_first_of_entries_that_only_rounding_tells_apart(self):
        """Would catch: 0.5 in the ledger of one processor and −0.5 in that of another."""
        for bit in (-1e-16, 1e-16):
            assert claims.equal("", claims.IDENTITY, [-0.5, 0.5 + bit], [-0.5, 0.5]).expected < 0

    def test_equal_refuses_to_broadcast(self):
        with pytest.raises(ValueError, match=r"differ in shape: \(\) and \(2,\)"):
            claims.equal("", claims.IDENTITY, 1.0, [1.0, 1.0])

    @pytest.mark.parametrize("obtained", [np.nan, np.inf, 1 + 1e-11])
    def test_equal_fails_beyond_rounding(self, obtained):
        assert not claims.equal("", claims.IDENTITY, 1.0, obtained).holds

    def test_below_is_strict_unless_told(self):
        assert claims.below("", claims.IDENTITY, 1.0, 0.9).holds
        assert not claims.below("", claims.IDENTITY, 1.0, 1.0).holds
        assert claims.below("", claims.IDENTITY, 1.0, 1.0, margin=0.0).holds
        assert not claims.below("", claims.IDENTITY, 1.0, np.nan).holds

    def test_simulated_counts_standard_errors(self):
        sample = np.random.default_rng(0).normal(size=10_000)
        claim = claims.simulated("", 0.0, sample)
        assert claim.holds and claim.std_error == pytest.approx(0.01, rel=0.05)
        assert not claims.simulated("", 0.05, sample).holds

    def test_refuted_needs_a_difference(self):
        assert claims.refuted("", 1.0, 2.0).holds
        assert not claims.refuted("", 1.0, 1.0 + 1e-6).holds
        assert not claims.refuted("", 0.0, 0.0).holds

    def test_rate_must_exclude_the_wrong_exponent(self):
        assert claims.rate("", -2.0, -1.99, 0.1, wrong=-1.0).holds
        assert not claims.rate("", -2.0, -1.5, 0.1, wrong=-1.0).holds
        too_wide = claims.rate("", -2.0, -1.9, 1.0, wrong=-1.0)
        assert too_wide.error == np.inf and not too_wide.holds

    def test_limiting_slope_sees_through_a_correction(self):
        sizes = np.array([8.0, 16.0, 32.0])
        slope, half_width = claims.limiting_slope(sizes, 1 / (sizes * (sizes - 1)))
        assert abs(slope + 2) < half_width < 0.1


class TestEnumeration:
    @pytest.mark.parametrize("listing", [ordered_groups, unordered_groups])
    @pytest.mark.parametrize("problem", small_problems())
    def test_probabilities_sum_to_one(self, problem, listing):
        for prompt in range(len(problem.prompt_probs)):
            probs = outcomes(problem, prompt).probs
            assert probs.sum() == pytest.approx(1, abs=1e-14)
            assert listing(probs, 3).probs.sum() == pytest.approx(1, abs=1e-14)

    def test_number_of_groups(self):
        probs = np.full(5, 0.2)
        assert len(ordered_groups(probs, 4).members) == 5**4
        assert len(unordered_groups(probs, 4).members) == 70  # 8 choose 4

    def test_order_within_a_group_does_not_matter(self):
        problem = random_problem(3, num_actions=4)
        for estimator in (Grpo(), Vanilla(), GroupMean()):
            ordered = group_errors(estimator, problem, group_size=4)
            unordered = group_errors(estimator, problem, group_size=4, groups=unordered_groups)
            np.testing.assert_allclose(ordered, unordered, rtol=1e-13)

    def test_impossible_outcomes_are_left_out(self):
        possible = outcomes(two_actions(0.3, [0.2, 1.0]), 0)
        np.testing.assert_allclose(possible.probs, [0.56, 0.14, 0.3])
        np.testing.assert_allclose(possible.rewards, [0, 1, 1])
        assert possible.value == pytest.approx(0.44)

    def test_group_error_against_a_loop(self):
        problem = tiny_problems()[0]
        for prompt, error in enumerate(group_errors(Grpo(), problem, group_size=3)):
            possible = outcomes(problem, prompt)
            total = 0.0
            for cells in product(range(len(possible.probs)), repeat=3):
                estimate = _grpo_by_hand(possible, cells)
                weight = np.prod([possible.probs[cell] for cell in cells])
                total += weight * np.sum((estimate - possible.gradient) ** 2)
            assert error == pytest.approx(total, rel=1e-13)

    @pytest.mark.parametrize("problem", tiny_problems())
    def test_minibatch_error_against_a_loop(self, problem):
        possible = [outcomes(problem, prompt) for prompt in (0, 1)]
        groups = [
            (problem.prompt_probs[prompt] * np.prod(x.probs[list(cells)]), _grpo_by_hand(x, cells))
            for prompt, x in enumerate(possible)
            for cells in product(range(len(x.probs)), repeat=2)
        ]
        total = sum(
            first * second * np.sum(((left + right) / 2 - problem.gradient) ** 2)
            for (first, left), (second, right) in product(groups, repeat=2)
        )
        error = minibatch_error(Grpo(), problem, batch_size=2, group_size=2)
        assert error == pytest.approx(total, rel=1e-13)

    def test_a_complete_pass_against_independent_prompts(self):
        problem = tiny_problems()[0]
        errors = group_errors(Oracle(), problem, group_size=2)
        once = minibatch_error(Oracle(), problem, batch_size=None, group_size=2)
        assert once == pytest.approx(problem.prompt_probs**2 @ errors, rel=1e-13)

    def test_the_snapshots_own_gradient_and_value(self):
        problem = random_problem(4, num_actions=4, dimension=3)
        for prompt in (0, 1):
            possible = outcomes(problem, prompt)
            assert possible.value == pytest.approx(problem.value[prompt], abs=1e-15)
            gradient = problem.prompt_gradients[prompt]
            np.testing.assert_allclose(possible.gradient, gradient, atol=1e-15)
            baseline = problem.optimal_baseline[prompt]
            assert possible.optimal_baseline == pytest.approx(baseline, abs=1e-14)

    def test_mean_of_the_distribution(self):
        possible = outcomes(random_problem(1), 0)
        distribution = gradient_distribution(Grpo(), possible, group_size=2)
        np.testing.assert_allclose(distribution.mean(), possible.gradient, atol=1e-15)


def _grpo_by_hand(possible: Outcomes, cells: tuple[int, ...]) -> np.ndarray:
    """Subtract from each reward the mean of the others, in plain Python."""
    total = np.zeros(possible.scores.shape[1])
    for i, cell in enumerate(cells):
        others = [possible.rewards[other] for j, other in enumerate(cells) if j != i]
        advantage = possible.rewards[cell] - sum(others) / len(others)
        total += advantage * possible.scores[cell]
    return total / len(cells)
