"""What a checker who cannot compute the answer may say of a candidate answer.

Features of (problem, candidate) pairs from the problem's numbers and the candidate alone: last
digits, casting out nines, a rough estimate, size and looks. None reads the right answer or the
slip. A softmax policy that is linear in them has a skill that its parameters set, and that differs
between kinds of problem and between slips: off by ten survives the check of the last digit,
transposed digits survive casting out nines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, Int, Num

from ustat_grpo.arithmetic.candidates import Candidate
from ustat_grpo.arithmetic.expressions import evaluate, replace_operands
from ustat_grpo.arithmetic.problems import KINDS, ArithmeticProblem
from ustat_grpo.inputs.checks import same_length

MODULI = (2, 3, 5, 9, 10)
NEAR = 0.1
"""What counts as near, as a share of the yardstick: about the error of a rough estimate."""


@dataclass(frozen=True, eq=False)
class Clues:
    """What the checker reads off P problems, in columns, to meet answers of shape (P, K).

    Args:
        kinds: The index of the kind in `KINDS`.
        multiplier: By what an answer is multiplied before its residue is checked: the divisor of a
            division, since the product must give the dividend, else 1.
        residues: For each of `MODULI`, the residue that the multiplied answer must leave.
        estimate: The value, were every number rounded to one significant digit.
        yardstick: The size by which to judge the distance from the estimate: that of the estimate
            for products and quotients, for sums (where terms cancel) the sum of the rounded terms.
        operands: The W numbers, the first one repeated where there are fewer.
    """

    kinds: Int[np.ndarray, "P 1"]
    multiplier: Int[np.ndarray, "P 1"]
    residues: dict[int, Int[np.ndarray, "P 1"]]
    estimate: Float[np.ndarray, "P 1"]
    yardstick: Float[np.ndarray, "P 1"]
    operands: Int[np.ndarray, "P W"]


def plausibility_features(
    problems: Sequence[ArithmeticProblem], candidates: Sequence[Sequence[Candidate]]
) -> Float[np.ndarray, "P K d"]:
    """Return the features of every candidate of every problem.

    Args:
        problems: P problems.
        candidates: For each problem, K candidates; only their answers are read.

    Returns:
        Features in [-1, 1], shape (P, K, d), the last axis in the order of `FEATURES`.

    Raises:
        ValueError: If there is no problem, the lengths of `problems` and `candidates` differ, or
            some problem has more candidates than another.
    """
    if not problems:
        raise ValueError("problems must hold at least one problem, got none")
    same_length("problems", {"problems": len(problems), "candidates": len(candidates)})
    sizes = {len(row) for row in candidates}
    if len(sizes) > 1:
        raise ValueError(f"candidates must be as many for every problem, got {sorted(sizes)}")
    answers = np.array([[candidate.answer for candidate in row] for row in candidates])
    clues = read_clues(problems)
    features = np.zeros((*answers.shape, len(FEATURES)))
    for i, heuristic in enumerate(_PER_KIND.values()):
        values = heuristic(answers, clues)
        for k in range(len(KINDS)):
            features[..., len(KINDS) * i + k] = values * (clues.kinds == k)
    for i, heuristic in enumerate(_COMMON.values(), start=len(KINDS) * len(_PER_KIND)):
        features[..., i] = heuristic(answers, clues)
    return features


def read_clues(problems: Sequence[ArithmeticProblem]) -> Clues:
    """Return the clues that the numbers of the problems give, without any answer."""
    widest = max(len(problem.operands) for problem in problems)
    rough = [_estimate_and_yardstick(problem) for problem in problems]
    return Clues(
        kinds=_column(KINDS.index(problem.kind) for problem in problems),
        multiplier=_column(p.operands[1] if p.kind == "division" else 1 for p in problems),
        residues={m: _column(_residue(problem, m) for problem in problems) for m in MODULI},
        estimate=_column(estimate for estimate, _ in rough),
        yardstick=_column(yardstick for _, yardstick in rough),
        operands=np.array([(p.operands + p.operands[:1] * widest)[:widest] for p in problems]),
    )


def round_to_one_digit(number: int) -> int:
    """Return a positive number rounded to one significant digit, halves up: 27 is 30, 95 is 100."""
    place = 10 ** (len(str(number)) - 1)
    return (2 * number + place) // (2 * place) * place


def _column(values: Iterable[float]) -> np.ndarray:
    return np.array(list(values))[:, None]


def _residue(problem: ArithmeticProblem, modulus: int) -> int:
    """Return the residue that the answer (times the divisor) leaves, from residues of numbers."""
    if problem.kind == "division":
        return problem.operands[0] % modulus
    return evaluate(replace_operands(problem.expression, lambda x: x % modulus)) % modulus


def _estimate_and_yardstick(problem: ArithmeticProblem) -> tuple[float, float]:
    rounded = [round_to_one_digit(operand) for operand in problem.operands]
    if problem.kind == "division":
        return rounded[0] / rounded[1], rounded[0] / rounded[1]
    estimate = float(evaluate(replace_operands(problem.expression, round_to_one_digit)))
    return estimate, estimate if problem.kind == "multiplication" else float(sum(rounded))


# Heuristics: (answers of shape (P, K), clues) -> values in [-1, 1] of shape (P, K).
AnswerTable = Int[np.ndarray, "P K"]
Heuristic = Callable[[AnswerTable, Clues], Num[np.ndarray, "P K"]]


def _yes_or_no(holds: np.ndarray) -> np.ndarray:
    return np.where(holds, 1.0, -1.0)


def _leaves_right_residue(modulus: int, answers: AnswerTable, clues: Clues) -> np.ndarray:
    return _yes_or_no(answers % modulus * clues.multiplier % modulus == clues.residues[modulus])


def _near_estimate(answers: AnswerTable, clues: Clues) -> np.ndarray:
    return np.exp(-np.abs(answers - clues.estimate) / (NEAR * clues.yardstick))


def _far_from_estimate(answers: AnswerTable, clues: Clues) -> np.ndarray:
    return np.minimum(1, np.abs(answers - clues.estimate) / clues.yardstick)


def _wrong_magnitude(answers: AnswerTable, clues: Clues) -> np.ndarray:
    return np.minimum(1, np.abs(np.log10((1 + np.abs(answers)) / (1 + np.abs(clues.estimate)))))


def _above_operands(answers: AnswerTable, clues: Clues) -> np.ndarray:
    return _yes_or_no(np.abs(answers) > clues.operands.max(axis=1, keepdims=True))


def _sign_of_estimate(answers: AnswerTable, clues: Clues) -> np.ndarray:
    return np.sign(answers) * np.sign(clues.estimate)


def _digits_of_estimate(answers: AnswerTable, clues: Clues) -> np.ndarray:
    return _yes_or_no(_num_digits(answers) == _num_digits(clues.estimate))


def _leading_digit_of_estimate(answers: AnswerTable, clues: Clues) -> np.ndarray:
    return _yes_or_no(_leading_digit(answers) == _leading_digit(clues.estimate))


def _repeats_operand(answers: AnswerTable, clues: Clues) -> np.ndarray:
    return _yes_or_no((np.abs(answers)[..., None] == clues.operands[:, None, :]).any(axis=-1))


def _beside_operand(answers: AnswerTable, clues: Clues) -> np.ndarray:
    distances = np.abs(np.abs(answers)[..., None] - clues.operands[:, None, :])
    return np.exp(-distances.min(axis=-1) / 5)


def _num_digits(numbers: np.ndarray) -> np.ndarray:
    """Return the number of digits before the point; zero has one."""
    return 1 + np.floor(np.log10(np.maximum(1, np.abs(numbers))))


def _leading_digit(numbers: np.ndarray) -> np.ndarray:
    return np.abs(numbers) // 10.0 ** (_num_digits(numbers) - 1)


# Of these, every kind of problem has its own weight.
_PER_KIND: dict[str, Heuristic] = {
    "last digit": partial(_leaves_right_residue, 10),
    "casting out nines": partial(_leaves_right_residue, 9),
    "near the estimate": _near_estimate,
    "far from the estimate": _far_from_estimate,
    "wrong magnitude": _wrong_magnitude,
    "above every operand": _above_operands,
}
_COMMON: dict[str, Heuristic] = {
    "parity": partial(_leaves_right_residue, 2),
    "casting out threes": partial(_leaves_right_residue, 3),
    "casting out fives": partial(_leaves_right_residue, 5),
    "sign of the estimate": _sign_of_estimate,
    "digits of the estimate": _digits_of_estimate,
    "leading digit of the estimate": _leading_digit_of_estimate,
    "repeats an operand": _repeats_operand,
    "beside an operand": _beside_operand,
    "negative": lambda answers, clues: _yes_or_no(answers < 0),
    "even": lambda answers, clues: _yes_or_no(answers % 2 == 0),
    "round": lambda answers, clues: _yes_or_no(answers % 10 == 0),
    "ends in five": lambda answers, clues: _yes_or_no(answers % 10 == 5),
    "doubled last digit": lambda answers, clues: _yes_or_no(np.abs(answers) % 100 % 11 == 0),
    "one digit": lambda answers, clues: _yes_or_no(np.abs(answers) < 10),
    "four digits or more": lambda answers, clues: _yes_or_no(np.abs(answers) >= 1000),
}
FEATURES = (*(f"{name}, {kind}" for name in _PER_KIND for kind in KINDS), *_COMMON)
