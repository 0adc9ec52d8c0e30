"""The ledger is generated, up to date, complete, and says so when a claim fails."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

import portable
import theory
from experiments.ledger import __main__ as ledger
from experiments.ledger import evidence as evidence_module
from experiments.ledger import items, pages, quotes, scoreboard, writing
from experiments.ledger.evidence import Chapter, Evidence
from experiments.ledger.findings import FINDINGS
from experiments.ledger.headlines import HEADLINES
from experiments.ledger.layout import PAGES
from experiments.ledger.measured import Group
from experiments.running.reading import Reading
from support.chapter_claims import claims_of
from theory import claims

ROOT = Path(__file__).parents[3]
REPRO = tuple(f"docs/repro/{page.name}.md" for page in PAGES)
CLAIMS = "docs/repro/claims.csv"
DOCUMENTS = ("paper_repro.md", "README.md", "docs/planner.md", *REPRO, CLAIMS)
LARGEST = 20_000  # bytes of the scoreboard
SETTINGS = ("V = 0.05", "within 5 %", "of 95 %", "B = 512")  # chosen, not measured

ITEMS = (
    "Algorithm 1", "Table 1", "Lemma 1", "Theorem 2", "Proposition 3", "Corollary 4",
    "Corollary 5", "Lemma 6", "Theorem 7", "Theorem 8", "Corollary 9", "Corollary 10", "Figure 4",
    "Figure 5", "Table 2", "Algorithm 2", "Lemma 11", "Theorem 12", "Proposition 13",
)  # fmt: skip
MODELS = ("Figure 4, Qwen2.5-0.5B", "Figure 5, Qwen2.5-1.5B", "Table 2, Qwen2.5-Math-7B")


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def table_rows(text):
    """Return the cells of every line of every table, headings and rules among them."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def scored():
    """Return the rows of the committed scoreboard, by item."""
    rows = [row for row in table_rows(read("paper_repro.md")) if len(row) == 5]
    return {row[1].strip("*"): row for row in rows if row[1].startswith("**")}


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory, shared_folder):
    """Generate all documents elsewhere; the repository's own are only read."""
    folder = tmp_path_factory.mktemp("ledger")
    before = {name: (ROOT / name).stat() for name in DOCUMENTS}
    # Backwards, to meet the tests of the chapters, which another process may run, half-way.
    made = {name: claims_of(shared_folder, name) for name in reversed(theory.CHAPTERS)}
    with pytest.MonkeyPatch.context() as patched:
        for name, chapter in zip(theory.CHAPTERS, theory.chapters(), strict=True):
            patched.setattr(chapter, "claims", lambda made=made[name]: iter(made))
        ledger.main(folder)
    for name, was in before.items():
        now = (ROOT / name).stat()
        assert (now.st_mtime_ns, now.st_ino) == (was.st_mtime_ns, was.st_ino), name
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file()
    }


class TestCommitted:
    @pytest.mark.parametrize("name", DOCUMENTS)
    def test_is_what_is_generated(self, regenerated, name):
        """Would catch: an edit by hand, a stale reference; mend with `make ledger`."""
        assert read(name) == regenerated[name]

    def test_nothing_else_is_generated_or_committed(self, regenerated):
        """Would catch: a page that was renamed, and its old text left behind."""
        assert set(regenerated) == set(DOCUMENTS)
        there = {f"docs/repro/{path.name}" for path in (ROOT / "docs" / "repro").iterdir()}
        assert there == {*REPRO, CLAIMS}

    def test_every_processor_is_asked_for_all_of_it(self):
        """Would catch: a page that `make portable` does not compare."""
        assert set(portable.DOCUMENTS) == set(DOCUMENTS)

    @pytest.mark.parametrize("name", DOCUMENTS)
    def test_no_document_holds_anything_finer_than_rounding(self, name):
        """Would catch: -5.6e-17 for what is zero, an error of 1.3e-12 that is 3.4e-12 elsewhere."""
        numbers = re.findall(r"(?<![\w.])\d+(?:\.\d+)?e-\d+", read(name))
        assert [number for number in numbers if 0 < float(number) < claims.AGREEMENT] == []


class TestScoreboard:
    def test_fits_the_eye(self):
        assert len(read("paper_repro.md").encode()) < LARGEST

    def test_one_row_an_item_in_the_order_of_the_paper(self):
        assert [item for item in scored() if item not in MODELS] == list(ITEMS)
        names = [row[1] for row in table_rows(read("paper_repro.md")) if row[1].startswith("**")]
        assert len(names) == len(set(names))

    def test_what_was_run_on_a_real_model_stands_below_its_figure(self):
        order = list(scored())
        for item in MODELS:
            assert order[order.index(item) - 1] == item.split(",")[0]
            assert scored()[item][0] == "not attempted"

    def test_verdicts_are_of_four_words(self):
        for item, row in scored().items():
            assert row[0] in ("reproduced", "refined", "refuted", "not attempted"), item
            assert all(row), item

    def test_lines_are_short(self):
        """At 1000 pixels five columns wrap within the window; a cell is one sentence or two."""
        for item, (_, _, says, found, _) in scored().items():
            assert len(says) <= 110, item
            assert len(found) <= 210, item

    def test_errata_are_numbered_and_say_where(self):
        text = read("paper_repro.md").split("## Errata of the paper")[1]
        rows = [row for row in table_rows(text) if re.fullmatch(r"\d", row[0])]
        assert [row[0] for row in rows] == ["1", "2", "3", "4", "5", "6"]
        assert all("docs/repro/" in row[3] for row in rows)

    def test_says_where_it_comes_from(self):
        text = read("paper_repro.md")
        assert "make ledger" in text and "do not edit" in text and "2603.01162" in text
        assert re.search(r"References: Python 3\.\d+\.\d+, ustat_grpo ", text)

    def test_every_reason_is_stated(self):
        every = (*items.THEORY, *items.EXPERIMENTS, *items.PRACTICE)
        assert len(every) == len(ITEMS) + len(MODELS)
        assert all(each.reason and each.verdict in items.VERDICTS for each in every)

    def test_no_number_is_typed_where_one_is_quoted(self):
        """Would catch: a result in the table of items, which the next reference leaves behind."""
        for each in (*items.THEORY, *items.EXPERIMENTS, *items.PRACTICE, *items.BEYOND):
            words = each.found
            for setting in SETTINGS:
                words = words.replace(setting, "")
            assert not re.search(r"\d\.\d|\d{3}|\d ?%", words), each.found


@pytest.fixture
def claim_rows():
    """Return the rows of the committed table of claims."""
    return list(csv.DictReader(StringIO(read(CLAIMS))))


def reading(verdict):
    return Reading("a claim", "expected", "obtained", verdict)


def evidence(verdict="reproduced", readings=(), holds=True):
    """Return evidence of one chapter of one claim, and of one group of readings."""
    wanted, _ = HEADLINES["u_statistic"]
    claim = claims.equal(wanted, claims.IDENTITY, 2.0, 2.0 if holds else 3.0)
    chapter = Chapter("u_statistic", "Lemma 1", "a title", (claim,))
    group = Group("gradient_mse", "a title", tuple(map(reading, readings)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(HEADLINES, "u_statistic", (wanted, verdict))
        yield Evidence({"u_statistic": chapter}, {"some": group}, {})


def settled(stated, chapter="reproduced", readings=(), holds=True):
    """Return the verdict of an item that rests on one chapter and some readings."""
    item = items.PaperItem("Lemma 1", "says", stated, "why", "found", ("u_statistic",),
                      ("some",) if readings else ())  # fmt: skip
    (verdict,) = [scoreboard.verdict(item, each) for each in evidence(chapter, readings, holds)]
    return verdict


class TestVerdicts:
    """The table of items states them; the evidence has the last word."""

    @pytest.mark.parametrize(
        ("stated", "chapter", "readings"),
        [
            ("reproduced", "reproduced", ()),
            ("reproduced", "reproduced; errata", ("reproduced, for epochs",)),
            ("refined", "refined: sharper", ()),
            ("refined", "reproduced under its assumption", ("refuted",)),
            ("refined", "refined: sharper", ("refuted", "not resolved")),
            ("refuted", "reproduced", ("refuted by the law",)),
        ],
    )
    def test_what_the_evidence_allows(self, stated, chapter, readings):
        assert settled(stated, chapter, readings) == stated

    @pytest.mark.parametrize(
        ("stated", "chapter", "readings"),
        [
            ("reproduced", "refined: sharper", ()),
            ("reproduced", "reproduced", ("reproduced", "refuted")),
            ("reproduced", "reproduced", ("not resolved",)),
            ("refined", "reproduced", ("reproduced",)),
            ("refined", "refuted", ()),
            ("refuted", "reproduced", ("reproduced", "refined: sharper")),
            ("not attempted", "reproduced", ()),
        ],
    )
    def test_what_it_does_not(self, stated, chapter, readings):
        """Would catch: a new reference that turns a reading around, and leaves the word."""
        assert settled(stated, chapter, readings) == scoreboard.UNSETTLED
        assert scoreboard.UNSETTLED not in items.VERDICTS

    @pytest.mark.parametrize("stated", ["reproduced", "refined", "refuted"])
    def test_a_claim_that_fails_leaves_none(self, stated):
        chapter, readings = {
            "reproduced": ("reproduced", ("reproduced",)),
            "refined": ("refined: sharper", ()),
            "refuted": ("refuted", ("refuted",)),
        }[stated]
        assert settled(stated, chapter, readings) == stated
        assert settled(stated, chapter, readings, holds=False) == evidence_module.FAILING
        assert evidence_module.FAILING not in items.VERDICTS

    def test_a_single_claim_that_fails_leaves_none(self):
        wanted, _ = HEADLINES["u_statistic"]
        item = replace(items.THEORY[1], claims=(("u_statistic", wanted),))
        for holds, verdict in ((True, "reproduced"), (False, evidence_module.FAILING)):
            for each in evidence(holds=holds):
                assert scoreboard.verdict(item, each) == verdict

    def test_a_claim_beside_the_headline_counts(self):
        for each in evidence():
            chapter = each.chapters["u_statistic"]
            wrong = claims.equal("another", claims.IDENTITY, 2.0, 3.0)
            both = replace(chapter, claims=(*chapter.claims, wrong))
            assert chapter.verdict == "reproduced" and both.verdict == evidence_module.FAILING
            assert both.holding == "1 of 2"

    def test_a_headline_that_no_chapter_has(self):
        """Would catch: a claim that was reworded, and its section gone without a word."""
        other = claims.equal("another", claims.IDENTITY, 2.0, 2.0)
        with pytest.raises(ValueError, match=r"must have the claim .* once, got 0"):
            _ = Chapter("u_statistic", "Lemma 1", "a title", (other,)).headline

    def test_every_chapter_has_a_headline(self):
        assert tuple(HEADLINES) == theory.CHAPTERS


class TestQuotes:
    def test_what_a_reading_says(self):
        said = replace(reading("reproduced"), obtained="largest |z| 2.4, in 3 of 16")
        assert quotes._quote(r"in (\d+ of \d+)", said) == "3 of 16"

    @pytest.mark.parametrize("obtained", ["nothing", "in 3 of 16, in 4 of 16"])
    def test_what_it_does_not_say_once(self, obtained):
        """Would catch: a reading that was reworded, and a number of another one in its place."""
        with pytest.raises(ValueError, match=r"once, got "):
            quotes._quote(r"in (\d+ of \d+)", replace(reading("refuted"), obtained=obtained))

    def test_a_reading_that_is_not_there(self):
        for each in evidence(readings=("refuted",)):
            with pytest.raises(ValueError, match="some must have a reading on 'no such', got none"):
                quotes._all(each, "some", "no such")

    def test_ends(self):
        assert quotes._ends(["74%", "9%", "53%"]) == ("9%", "74%")


class TestPages:
    def test_every_chapter_and_every_group_has_its_place(self):
        places = Counter(name for page in PAGES for name in page.chapters)
        assert places == Counter(theory.CHAPTERS)
        shown = [key for page in PAGES for section in page.sections for key in section.groups]
        measured = set(evidence_module.all_groups(evidence_module.REFERENCE))
        assert len(shown) == len(set(shown)) and set(shown) == measured

    def test_every_experiment_has_one_home(self):
        homes = Counter(s.experiment for page in PAGES for s in page.sections if s.home)
        assert set(homes.values()) == {1}
        assert set(homes) == {s.experiment for page in PAGES for s in page.sections}

    def test_what_stands_out_has_a_page(self):
        assert set(FINDINGS) <= {page.name for page in PAGES}

    @pytest.mark.parametrize("name", REPRO)
    def test_tables_have_at_most_six_columns(self, name):
        rows = table_rows(read(name))
        assert rows and max(map(len, rows)) <= 6
        assert all(cell for row in rows for cell in row)

    @pytest.mark.parametrize("name", ("paper_repro.md", *REPRO))
    def test_headings_can_be_linked_to(self, name):
        """GitHub drops ₁ and the like from their names, and numbers what is there twice."""
        headings = re.findall(r"^#+ (.*)$", read(name), re.M)
        assert len(headings) == len(set(headings))
        assert all(heading.isascii() for heading in headings)

    def test_each_command_stands_once(self):
        lines = [line for name in REPRO for line in read(name).splitlines()]
        printed = [line[2:] for line in lines if line.startswith("$ ")]
        anywhere = re.findall(r"python -m [^\n`]*", "\n".join(lines))
        assert Counter(printed) == Counter(anywhere) and set(Counter(printed).values()) == {1}
        for name in theory.CHAPTERS:
            assert f"python -m theory {name}" in printed
        for page in PAGES:
            for section in page.sections:
                assert set(pages.commands(section.experiment)) <= set(printed)

    def test_every_figure_is_shown_once(self):
        linked = Counter(
            target
            for name in REPRO
            for target in re.findall(r"\]\(\.\./\.\./figures/drawn/([^)]+)\)", read(name))
        )
        drawn = {path.name for path in (ROOT / "figures" / "drawn").glob("*.png")}
        assert linked == Counter(drawn)

    def test_every_number_has_a_commit(self):
        for page in PAGES:
            text = read(f"docs/repro/{page.name}.md")
            homes = [section for section in page.sections if section.home]
            commit = r"\d\.\d minutes on \d+ cores; numbers: `experiments/reference/\w+\.csv`, "
            assert len(re.findall(commit + r"of commit [0-9a-f]{12}\.", text)) == len(homes)

    def test_what_is_not_attempted_says_why_and_how(self):
        headings = [each.heading for page in PAGES for each in page.untried]
        assert sorted(headings) == sorted(item.untried for item in items.EXPERIMENTS
                                          if item.untried)  # fmt: skip
        for page in PAGES:
            for each in page.untried:
                (section,) = re.findall(
                    rf"^## {re.escape(each.heading)}\n(.*?)(?=^## |\Z)",
                    read(f"docs/repro/{page.name}.md"), re.M | re.S,
                )  # fmt: skip
                assert f"Not attempted: {each.why}" in section and f"$ {each.command}" in section

    def test_measured_rows_show_an_uncertainty(self):
        """Obtained ± SE: at least the experiments' rows say how sure they are."""
        rows = [row for name in REPRO for row in table_rows(read(name)) if len(row) == 4]
        agreements = [row for row in rows if row[1].startswith("the exact laws")]
        assert len(agreements) == 2
        for verdict, _, _, obtained in agreements:
            assert verdict == "reproduced"
            assert re.search(r"largest \\\|z\\\| \d\.\d, .* std\. error ≤", obtained)


class TestClaimsTable:
    def test_every_claim_of_every_chapter_holds(self, claim_rows):
        assert {row["verdict"] for row in claim_rows} == {"holds"}
        assert tuple(dict.fromkeys(row["chapter"] for row in claim_rows)) == theory.CHAPTERS
        assert len(claim_rows) > 350

    def test_items_are_those_of_the_chapters(self, claim_rows):
        known = {name: module.ITEM for name, module in
                 zip(theory.CHAPTERS, theory.chapters(), strict=True)}  # fmt: skip
        assert all(row["item"] == known[row["chapter"]] for row in claim_rows)
        assert all(all(row.values()) for row in claim_rows)

    def test_no_error_of_what_agrees_has_digits(self, claim_rows):
        """Would catch: digits of a minimiser's error, which are as much rounding as its last."""
        shown = [
            row["error"]
            for row in claim_rows
            if row["kind"] in ("identity", "enumeration")
            and float(row["tolerance"].removeprefix("≤ ")) > 0
        ]
        assert len(shown) > 150 and set(shown) <= {"rounding", "within tolerance"}


class TestWriting:
    def test_all_or_nothing(self, tmp_path):
        """Would catch: half of the pages new and half of them old, after a full disk."""
        (tmp_path / "a.md").write_text("old")
        (tmp_path / "taken").write_text("a file where a folder must be")
        with pytest.raises(OSError):
            writing.write_all(tmp_path, {"a.md": "new", "taken/b.md": "new"})
        assert {path.name: path.read_text()[:3] for path in tmp_path.iterdir()} == {
            "a.md": "old", "taken": "a f",
        }  # fmt: skip
        writing.write_all(tmp_path, {"a.md": "new", "b/c.md": "ν"})
        assert (tmp_path / "a.md").read_text() == "new"
        assert (tmp_path / "b" / "c.md").read_bytes() == "ν".encode()
        assert not list(tmp_path.rglob("*partial*"))

    def test_a_page_that_cannot_be_made_leaves_all_as_they_were(self, tmp_path, monkeypatch):
        monkeypatch.setattr(ledger, "gather", lambda: None)
        monkeypatch.setattr(ledger, "scoreboard", lambda _: "new")

        def fail(*_):
            raise ValueError("no such reading")

        monkeypatch.setattr(ledger, "page", fail)
        with pytest.raises(ValueError, match="no such reading"):
            ledger.main(tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_what_is_stale_goes(self, tmp_path):
        for name in ("a.md", "b.md", "c.csv", "note.txt"):
            (tmp_path / name).write_text(name)
        writing.remove_stale(tmp_path, {"a.md"})
        assert {path.name for path in tmp_path.iterdir()} == {"a.md", "note.txt"}
