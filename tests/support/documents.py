"""What tests read of the documents: their text, their code and what is left."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def read(name):
    """Return the text of a document."""
    return (ROOT / name).read_text(encoding="utf-8")


def fences(text, language=None):
    """Return the code blocks of a text."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [code for label, code in found if language in (None, label)]


def prose(text):
    """Return a text without its code blocks."""
    return re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.M | re.S)
