"""How the ledger writes: blocks, tables, and claims without a digit that rounding decides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from experiments.ledger.claims_table import claim_cells
from experiments.ledger.documents import console, heading_anchor, markdown, replace_block
from theory import claims

TEXT = "a\n<!-- speed: generated -->\nold\nolder\n<!-- speed: end -->\nz\n"


class TestReplaceBlock:
    def test_between_the_markers_only(self):
        assert replace_block(TEXT, "speed", "new") == (
            "a\n<!-- speed: generated -->\nnew\n<!-- speed: end -->\nz\n"
        )

    def test_twice_is_once(self):
        once = replace_block(TEXT, "speed", "new | table")
        assert replace_block(once, "speed", "new | table") == once

    def test_an_empty_block_is_filled(self):
        empty = "<!-- speed: generated -->\n<!-- speed: end -->\n"
        assert "\nnew\n" in replace_block(empty, "speed", "new")

    def test_what_looks_like_a_pattern_stays_as_it_is(self):
        assert r"\1 \g<2> \n" in replace_block(TEXT, "speed", r"\1 \g<2> \n")

    def test_other_blocks_stay(self):
        both = TEXT + TEXT.replace("speed", "minutes")
        assert replace_block(both, "minutes", "new").startswith(TEXT)

    @pytest.mark.parametrize(
        ("text", "count"),
        [
            ("no marker", 0),
            (TEXT.replace("speed", "minutes"), 0),
            (TEXT.replace("<!-- speed: end -->", ""), 0),
            (TEXT + TEXT, 2),
        ],
    )
    def test_must_be_there_once(self, text, count):
        message = f"^text must hold the generated block 'speed' once, got {count}$"
        with pytest.raises(ValueError, match=message):
            replace_block(text, "speed", "new")


class TestMarkdown:
    def test_a_table(self):
        assert markdown(["a", "b"], [["1", "2"], ["3", "4"]]) == (
            "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |"
        )

    def test_a_bar_inside_a_cell_is_escaped(self):
        """Would catch: |z| ≤ 4, which would make two more cells."""
        table = markdown(["a"], [["|z| ≤ 4"]])
        assert table.splitlines()[2] == r"| \|z\| ≤ 4 |"

    def test_commands(self):
        assert console(["a b", "c"]) == "```console\n$ a b\n$ c\n```"

    def test_names_of_headings(self):
        assert heading_anchor("Lemma 1: GRPO's G*, at 0/1") == "lemma-1-grpos-g-at-01"


class TestRoundingErrors:
    """They differ between machines, where a committed document must not."""

    def test_of_what_agrees(self):
        """Would catch: an error of 3e-17 that is 4e-14 elsewhere."""
        claim = claims.equal("a", claims.IDENTITY, 2.0, 2.0)
        shown = {claim_cells(replace(claim, error=e))[4] for e in (0.0, 3e-17, 2e-16, 4e-14)}
        assert shown == {"rounding"}

    def test_of_an_obtained_side(self):
        one, other = (
            claim_cells(claims.equal("a", claims.IDENTITY, 2.0, 2.0 * (1 + error)))
            for error in (0.0, 2.3e-16)
        )
        assert one == other

    def test_which_entry_is_shown(self):
        """Would catch: of two arrays that agree, the entry where rounding happens to be worst."""
        off = 1 + 2.3e-16
        one, other = (
            claim_cells(claims.equal("a", claims.IDENTITY, [1.0, 2.0], obtained))
            for obtained in ([1.0 * off, 2.0], [1.0, 2.0 * off])
        )
        assert one == other

    @pytest.mark.parametrize("zero", [0.0, -5.6e-17, 2.2e-17])
    def test_of_what_is_zero(self, zero):
        one, other = (
            claim_cells(claims.equal("m = 0", claims.ENUMERATION, 0.0, each))
            for each in (zero, 1.1e-16)
        )
        assert one == other

    def test_of_what_is_zero_against_a_wrong_number(self):
        one, other = (
            claim_cells(claims.refuted("a mean", 0.027, each)) for each in (2e-17, -3e-17)
        )
        assert one == other

    def test_of_a_minimiser(self):
        """Would catch: 1.5e-08 and 1.3e-10, the errors of one minimum found on two processors."""
        one, other = (
            claim_cells(claims.equal("G*", claims.ENUMERATION, 4.67071, 4.67071 + e, 1e-6))
            for e in (7e-8, 6e-10)
        )
        assert one == other
        assert one[2:5] == ["4.671", "4.671", "within tolerance"]

    @pytest.mark.parametrize("error", [1e-17, -1e-17])
    def test_of_a_bound_that_is_met(self, error):
        claim = claims.below("a ratio", claims.IDENTITY, 1.0, 1.0 + error, margin=0.0)
        assert claim_cells(replace(claim, error=error))[4] == "rounding"

    def test_of_what_lies_between_two_digits(self):
        """Would catch: an error of 0.12 that is 0.13 elsewhere, where it is 0.125."""
        one, other = (
            claim_cells(replace(claims.refuted("a", 1.0, 2.0), error=0.125 + each))
            for each in (-2e-17, 3e-17)
        )
        assert one == other

    def test_of_a_slope_that_is_none(self):
        cells = claim_cells(claims.rate("flat", 0.0, 7.07e-11, 1e-6, 1.0))
        assert cells[3:5] == ["0", "within tolerance"]


class TestClaims:
    def test_a_claim_that_fails_is_loud(self):
        assert claim_cells(claims.equal("1 = 2", claims.IDENTITY, 1.0, 2.0))[-1] == "FAILS"

    def test_a_simulation_shows_its_standard_error(self):
        made = claims.simulated("a mean", 0.0, [1.0, -1.0, 2.0, -1.0])
        cells = claim_cells(made)
        assert cells[3] == f"{made.obtained:.6g} ± {made.std_error:.1g}"
        assert cells[4].endswith(" s.e.") and cells[5] == "≤ 4 s.e." and cells[6] == "holds"

    def test_a_counterexample_must_exceed(self):
        cells = claim_cells(claims.refuted("1 = 2", 1.0, 2.0))
        assert cells[4:] == ["0.5", "> 0.001", "holds"]
