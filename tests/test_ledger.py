"""The ledger is generated, up to date, complete, and says so when a claim fails."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import theory
from chapter_claims import claims_of
from experiments.ledger import __main__ as ledger
from experiments.ledger.documents import markdown, replace_block
from theory import claims

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("paper_repro.md", "README.md", "docs/planner.md")

ITEMS = (
    "Lemma 1", "Theorem 2", "Proposition 3", "Corollary 4", "Corollary 5", "Lemma 6", "Theorem 7",
    "Theorem 8", "Corollary 9", "Corollary 10", "Algorithm 1", "Algorithm 2", "Table 1", "Table 2",
    "Figure 4", "Figure 5", "Lemma 11", "Theorem 12", "Proposition 13",
)  # fmt: skip

TEXT = "a\n<!-- speed: generated -->\nold\nolder\n<!-- speed: end -->\nz\n"


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory, shared_folder):
    """Generate all documents elsewhere; the repository's own are only read."""
    folder = tmp_path_factory.mktemp("ledger")
    before = {name: (ROOT / name).stat() for name in DOCUMENTS}
    # Backwards, to meet the tests of the chapters, which another process may run, half-way.
    found = {name: claims_of(shared_folder, name) for name in reversed(theory.CHAPTERS)}
    with pytest.MonkeyPatch.context() as patched:
        for name, chapter in zip(theory.CHAPTERS, theory.chapters(), strict=True):
            patched.setattr(chapter, "claims", lambda made=found[name]: iter(made))
        ledger.main(folder)
    for name, was in before.items():
        now = (ROOT / name).stat()
        assert (now.st_mtime_ns, now.st_ino) == (was.st_mtime_ns, was.st_ino), name
    return {name: (folder / name).read_text(encoding="utf-8") for name in DOCUMENTS}


@pytest.fixture(scope="module")
def rows():
    """The committed ledger, one dict a row."""
    text = (ROOT / "paper_repro.md").read_text(encoding="utf-8")
    table = text.split("## The ledger")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    headings, _, *body = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    names = [heading.strip() for heading in headings]
    return [dict(zip(names, (cell.strip() for cell in cells), strict=True)) for cells in body]


def chapters_claims():
    """Return for every chapter its headline, as a claim that holds."""
    return {
        name: [claims.equal(statement, claims.IDENTITY, 2.0, 2.0)]
        for name, (statement, _) in ledger.HEADLINES.items()
    }


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


class TestTheoryRows:
    items = {name: "Lemma 0" for name in theory.CHAPTERS}  # noqa: RUF012

    def row(self, name, made):
        found = chapters_claims() | {name: made}
        rows = list(ledger._theory_rows(self.items, found))
        (row,) = [row for row in rows if row.code == f"`theory/{name}.py`"]
        return row

    def test_one_row_a_chapter(self):
        rows = list(ledger._theory_rows(self.items, chapters_claims()))
        assert [row.code for row in rows] == [f"`theory/{name}.py`" for name in theory.CHAPTERS]
        for row, (_, verdict) in zip(rows, ledger.HEADLINES.values(), strict=True):
            assert row.verdict == verdict
            assert "(1 of 1 claims of the chapter hold)" in row.claim
            assert row.expected == "2" and row.obtained.startswith("2")

    @pytest.mark.parametrize("which", ["the headline", "another"])
    def test_a_failing_claim_is_the_verdict(self, which):
        statement = ledger.HEADLINES["group_error"][0]
        truth = claims.equal(statement, claims.IDENTITY, 2.0, 2.0)
        other = claims.equal("another", claims.IDENTITY, 2.0, 2.0)
        if which == "another":
            other = replace(other, obtained=3.0, error=0.5)
        else:
            truth = replace(truth, obtained=3.0, error=0.5)
        row = self.row("group_error", [truth, other])
        assert row.verdict == "a claim fails"
        assert "(1 of 2 claims of the chapter hold)" in row.claim

    def test_a_headline_that_no_chapter_has(self):
        """Would catch: a claim that was reworded, and its row gone without a word."""
        with pytest.raises(ValueError):
            self.row("group_error", [claims.equal("another", claims.IDENTITY, 2.0, 2.0)])

    def test_every_chapter_has_a_headline(self):
        assert tuple(ledger.HEADLINES) == theory.CHAPTERS


class TestRoundingErrors:
    """They differ between machines, where a committed document must not."""

    statement = ledger.HEADLINES["u_statistic"][0]

    @pytest.mark.parametrize("error", [0.0, 3e-17, 4e-14])
    def test_in_the_ledger(self, error):
        made = [
            replace(claims.equal(self.statement, claims.IDENTITY, 2.0, 2.0), error=each)
            for each in (error, 2e-16)
        ]
        one, other = (
            next(
                ledger._theory_rows(TestTheoryRows.items, chapters_claims() | {"u_statistic": [c]})
            )
            for c in made
        )
        assert one == other

    def test_in_the_chapters(self):
        one, other = (
            ledger._claim_cells(claims.equal("a", claims.IDENTITY, 2.0, 2.0 * (1 + error)))
            for error in (0.0, 2.3e-16)
        )
        assert one == other

    def test_which_entry_is_shown(self):
        """Would catch: of two arrays that agree, the entry where rounding happens to be worst."""
        off = 1 + 2.3e-16
        one, other = (
            ledger._claim_cells(claims.equal("a", claims.IDENTITY, [1.0, 2.0], obtained))
            for obtained in ([1.0 * off, 2.0], [1.0, 2.0 * off])
        )
        assert one == other

    @pytest.mark.parametrize("zero", [0.0, -5.6e-17, 2.2e-17])
    def test_of_what_is_zero(self, zero):
        one, other = (
            ledger._claim_cells(claims.equal("m = 0", claims.ENUMERATION, 0.0, each))
            for each in (zero, 1.1e-16)
        )
        assert one == other

    def test_of_what_is_zero_against_a_wrong_number(self):
        one, other = (
            ledger._claim_cells(claims.refuted("a mean", 0.027, each)) for each in (2e-17, -3e-17)
        )
        assert one == other

    def test_of_a_minimiser(self):
        """Would catch: 1.5e-08 and 1.3e-10, the errors of one minimum found on two processors."""
        one, other = (
            ledger._claim_cells(claims.equal("G*", claims.ENUMERATION, 4.67071, 4.67071 + e, 1e-6))
            for e in (7e-8, 6e-10)
        )
        assert one == other
        assert one[2:5] == ["4.671", "4.671", "within tolerance"]

    @pytest.mark.parametrize("error", [1e-17, -1e-17])
    def test_of_a_bound_that_is_met(self, error):
        claim = claims.below("a ratio", claims.IDENTITY, 1.0, 1.0 + error, margin=0.0)
        assert ledger._claim_cells(replace(claim, error=error))[4] == "rounding"

    def test_of_what_lies_between_two_digits(self):
        """Would catch: an error of 0.12 that is 0.13 elsewhere, where it is 0.125."""
        one, other = (
            ledger._claim_cells(replace(claims.refuted("a", 1.0, 2.0), error=0.125 + each))
            for each in (-2e-17, 3e-17)
        )
        assert one == other

    def test_of_a_slope_that_is_none(self):
        cells = ledger._claim_cells(claims.rate("flat", 0.0, 7.07e-11, 1e-6, 1.0))
        assert cells[3:5] == ["0", "within tolerance"]

    @pytest.mark.parametrize("name", DOCUMENTS)
    def test_no_document_holds_anything_finer(self, name):
        """Would catch: -5.6e-17 for what is zero, an error of 1.3e-12 that is 3.4e-12 elsewhere."""
        text = (ROOT / name).read_text(encoding="utf-8")
        numbers = re.findall(r"(?<![\w.])\d+(?:\.\d+)?e-\d+", text)
        assert [number for number in numbers if 0 < float(number) < claims.AGREEMENT] == []

    def test_no_error_of_what_agrees_has_digits(self):
        """Would catch: digits of a minimiser's error, which are as much rounding as its last."""
        text = (ROOT / "paper_repro.md").read_text(encoding="utf-8")
        rows = re.findall(r"\| (?:identity|enumeration) \|.*\| (\S[^|]*) \| ≤ ([^|]+) \| yes", text)
        assert len(rows) > 150
        shown = {error for error, tolerance in rows if float(tolerance) > 0}
        assert shown <= {"rounding", "within tolerance"}


class TestClaims:
    def test_a_claim_that_fails_is_bold(self):
        cells = ledger._claim_cells(claims.equal("1 = 2", claims.IDENTITY, 1.0, 2.0))
        assert cells[-1] == "**no**"

    def test_a_simulation_shows_its_standard_error(self):
        made = claims.simulated("a mean", 0.0, [1.0, -1.0, 2.0, -1.0])
        cells = ledger._claim_cells(made)
        assert cells[3] == f"{made.obtained:.6g} ± {made.std_error:.1g}"
        assert cells[4].endswith(" s.e.") and cells[5] == "≤ 4 s.e." and cells[6] == "yes"

    def test_a_counterexample_must_exceed(self):
        cells = ledger._claim_cells(claims.refuted("1 = 2", 1.0, 2.0))
        assert cells[4:] == ["0.5", "> 0.001", "yes"]


class TestCommitted:
    @pytest.mark.parametrize("name", DOCUMENTS)
    def test_is_what_is_generated(self, regenerated, name):
        """Would catch: an edit by hand, a stale reference; mend with `make ledger`."""
        assert (ROOT / name).read_text(encoding="utf-8") == regenerated[name]

    @pytest.mark.parametrize("item", ITEMS)
    def test_every_item_of_the_paper_has_a_row(self, rows, item):
        own = [row for row in rows if re.match(rf"{item}(?!\d)", row["item"])]
        assert own
        assert all(all(row.values()) for row in own)

    def test_no_row_is_of_something_else(self, rows):
        names = {re.sub(r" \(.*\)$", "", row["item"]) for row in rows}
        assert names <= {*ITEMS, "Errata", "Figure 5 and Table 2", "Beyond the paper"}

    def test_verdicts_are_of_five_kinds(self, rows):
        kinds = "reproduced|refined|refuted|not resolved|not attempted"
        for row in rows:
            kind = re.match(kinds, row["verdict"])
            assert kind, row

    def test_what_is_not_attempted_says_why(self, rows):
        skipped = [row for row in rows if row["verdict"].startswith("not attempted")]
        assert skipped
        for row in skipped:
            reason = row["verdict"].removeprefix("not attempted: ")
            assert len(reason.split()) >= 4, row

    def test_what_is_attempted_says_how_and_how_long(self, rows):
        done = [row for row in rows if not row["verdict"].startswith("not attempted")]
        for row in done:
            assert row["command"].startswith("`python -m "), row
            assert (ROOT / row["code"].strip("`")).exists(), row
            assert re.fullmatch(r"(< )?\d+\.\d", row["minutes"]), row

    def test_measured_rows_show_an_uncertainty(self, rows):
        """Obtained ± SE: at least the experiments' rows say how sure they are."""
        agreements = [row for row in rows if row["claim"].startswith("the exact laws")]
        assert len(agreements) == 2
        for row in agreements:
            assert row["verdict"] == "reproduced"
            assert re.search(r"largest \\\|z\\\| \d\.\d, .* std\. error ≤", row["obtained"])

    def test_every_claim_of_every_chapter_holds(self):
        text = (ROOT / "paper_repro.md").read_text(encoding="utf-8")
        assert "**no**" not in text and "a claim fails" not in text
        for name in theory.CHAPTERS:
            assert f"(`theory/{name}.py`)" in text

    def test_says_where_it_comes_from(self):
        text = (ROOT / "paper_repro.md").read_text(encoding="utf-8")
        assert "make ledger" in text and "do not edit" in text and "2603.01162" in text
        commit = r"commit [0-9a-f]{12}(?: \([\w, ]+\))?"
        assert re.search(rf"{commit}(?:; {commit})*, Python 3\.\d+\.\d+, ustat_grpo ", text)
