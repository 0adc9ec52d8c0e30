"""Boxes of answers: which of them count, and that long texts take no longer than reading them."""

import time

import pytest

from ustat_grpo.lm.judging.boxes import boxes, last_boxed
from ustat_grpo.lm.judging.equivalence import decided


@pytest.mark.parametrize(
    ("text", "insides"),
    [
        (r"\boxed{1}, \fbox{ 2 } or \boxed 3.", ["1", "2", "3"]),
        (r"\boxed{\boxed{8}}", [r"\boxed{8}"]),
        (r"\boxed{1} but \boxed{2", ["1"]),
        (r"\boxed{} \boxed{ } \boxed", []),
    ],
)
def test_boxes(text, insides):
    """Would catch: a box that is lost or counted twice, or one that is placed wrong."""
    found = boxes(text)
    assert [box.inside for box in found] == insides
    assert all(box.inside in text[box.start : box.end] for box in found)
    assert all(text[box.start] == "\\" for box in found)


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"\boxed{" * 30_000, None),
        (r"\boxed{1}" * 20_000, "1"),
        (r"\boxed" * 30_000 + "{", None),
        (r"\boxed" * 30_000, r"\boxed"),  # the last but one holds the last
        (r"\boxed{" * 15_000 + "1" + "}" * 15_000, "1"),
        (r"\boxed{" + "{" * 200_000, None),
        (r"\boxed" + " " * 200_000 + "{1}", "1"),
        ("\\" * 200_000, None),
    ],
)
def test_time_is_linear(text, inside):
    """Would catch: each box read to the end of the text, 10⁹ characters here (minutes)."""
    start = time.process_time()
    found = last_boxed(text)
    assert time.process_time() - start < 5
    assert found == inside


@pytest.mark.parametrize(
    "part", [r"\boxed{", "3½ ", "101_3 ", "28% ", "- 5 ", "9", "(9", r"\text{"]
)
def test_time_before_math_verify_is_linear(part):
    """Would catch: a pattern of the guards that goes back (10⁹ steps here, minutes)."""
    long = part * (30_000 // len(part))
    start = time.process_time()
    for text, answer in ((long, "18"), (f"\\boxed{{{long}}}", r"28\%"), ("18", long)):
        decided(text, answer)
    assert time.process_time() - start < 5
