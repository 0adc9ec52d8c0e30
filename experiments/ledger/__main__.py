"""Write `paper_repro.md`, `docs/repro/`, and what documents quote of runs.

Every number comes from the theory chapters, which are run, or from the committed references.
`python -m experiments.ledger FOLDER` writes the documents into another folder.
"""

from argparse import ArgumentParser
from pathlib import Path

from experiments.ledger.claims_table import claims_csv
from experiments.ledger.documents import document_blocks, replace_block
from experiments.ledger.evidence import Evidence, gather
from experiments.ledger.layout import PAGES
from experiments.ledger.pages import FOLDER, page
from experiments.ledger.scoreboard import scoreboard
from experiments.ledger.writing import remove_stale, write_all

ROOT = Path(__file__).parents[2]


def main(folder: Path | None = None) -> None:
    """Write all documents, or none if one cannot be written; remove pages that are no more.

    Args:
        folder: where they go; in the place of those that are there if None.
    """
    folder = folder or ROOT
    written = documents(gather())
    write_all(folder, written)
    remove_stale(folder / FOLDER, {Path(name).name for name in written if FOLDER in name})
    print(f"{len(written)} documents in {folder}")


def documents(evidence: Evidence) -> dict[str, str]:
    """Return the text of every document by its path from the root."""
    made = {"paper_repro.md": scoreboard(evidence)}
    made |= {f"{FOLDER}/{layout.name}.md": page(layout, evidence) for layout in PAGES}
    made[f"{FOLDER}/claims.csv"] = claims_csv(evidence.chapters.values())
    for document, blocks in document_blocks(evidence.provenance["seconds"]).items():
        text = (ROOT / document).read_text(encoding="utf-8")
        for name, block in blocks.items():
            text = replace_block(text, name, block)
        made[document] = text
    return made


if __name__ == "__main__":
    parser = ArgumentParser(prog="python -m experiments.ledger", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="where the documents go; in place")
    main(parser.parse_args().folder)
