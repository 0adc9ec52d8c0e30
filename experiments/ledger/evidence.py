"""All that the ledger rests on: the claims of the chapters, the readings of the references."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import theory
from experiments.ledger.headlines import HEADLINES
from experiments.ledger.measured import Group, all_groups
from theory.claims import Claim

REFERENCE = Path(__file__).parents[2] / "experiments" / "reference"

REPRODUCED, REFINED, REFUTED, OPEN = "reproduced", "refined", "refuted", "open"
FAILING = "a claim fails"
"""In place of a verdict: it is none, so that the tests refuse a ledger that holds it."""


@dataclass(frozen=True)
class Chapter:
    """A theory chapter with its claims, worked out."""

    name: str
    item: str
    title: str
    claims: tuple[Claim, ...]

    @property
    def holding(self) -> str:
        """How many claims hold, in words."""
        return f"{sum(claim.holds for claim in self.claims)} of {len(self.claims)}"

    @property
    def headline(self) -> Claim:
        """The claim that speaks for the chapter.

        Raises:
            ValueError: if the chapter has no such claim, or several.
        """
        wanted, _ = HEADLINES[self.name]
        found = [claim for claim in self.claims if claim.statement == wanted]
        if len(found) != 1:
            raise ValueError(f"{self.name} must have the claim {wanted!r} once, got {len(found)}")
        return found[0]

    @property
    def verdict(self) -> str:
        """Kind and reason, or that a claim fails."""
        _, verdict = HEADLINES[self.name]
        return verdict if all(claim.holds for claim in self.claims) else FAILING


@dataclass(frozen=True)
class Evidence:
    """What was computed and measured, and how.

    Args:
        chapters: by name, in the order of the paper.
        groups: readings of the references, by key.
        provenance: commits, seconds and versions of the references, as they are recorded.
    """

    chapters: Mapping[str, Chapter]
    groups: Mapping[str, Group]
    provenance: Mapping[str, Any]

    def minutes(self, experiment: str) -> str:
        """Minutes of an experiment on the paper scale."""
        return f"{self.provenance['seconds'][experiment] / 60:.1f}"


def gather() -> Evidence:
    """Work out every chapter and read every reference."""
    chapters = {
        name: Chapter(name, module.ITEM, module.TITLE, tuple(module.claims()))
        for name, module in zip(theory.CHAPTERS, theory.chapters(), strict=True)
    }
    provenance = json.loads((REFERENCE / "provenance.json").read_text())
    return Evidence(chapters, all_groups(REFERENCE), provenance)


def kind(verdict: str) -> str:
    """Return the kind of a verdict; what decides nothing is open."""
    found = re.match(rf"({REPRODUCED}|{REFINED}|{REFUTED})\b", verdict)
    return found[1] if found else OPEN
