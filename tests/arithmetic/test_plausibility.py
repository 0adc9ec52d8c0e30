"""The checker's features: honest, bounded, by hand, and good for a skill of any height."""

from dataclasses import replace

import numpy as np
import pytest

from ustat_grpo.arithmetic.candidates import CORRECT, Candidate, candidate_answers
from ustat_grpo.arithmetic.expressions import Operation, chain
from ustat_grpo.arithmetic.plausibility import (
    FEATURES,
    plausibility_features,
    read_clues,
    round_to_one_digit,
)
from ustat_grpo.arithmetic.problems import (
    KINDS,
    ArithmeticProblem,
    OperandRanges,
    arithmetic_problems,
)

SUM = ArithmeticProblem(chain((27, 35, 4), ("+", "-")))  # 58, estimated 30 + 40 - 4 = 66
PRODUCT = ArithmeticProblem(Operation("*", 27, 14))  # 378, estimated 300
QUOTIENT = ArithmeticProblem(Operation("/", 56, 8))  # 7, estimated 60 / 8 = 7.5


def draw(seed, ranges=None):
    problems = arithmetic_problems(
        500, rng=np.random.default_rng([seed, 0]), ranges=ranges or OperandRanges()
    )
    rng = np.random.default_rng([seed, 1])
    return problems, [candidate_answers(problem, rng=rng) for problem in problems]


@pytest.fixture(scope="module")
def drawn():
    return draw(0)


@pytest.fixture(scope="module")
def features(drawn):
    return plausibility_features(*drawn)


def right(candidates):
    return np.array([[c.slip == CORRECT for c in row] for row in candidates])


def named(problem, *answers):
    """Return the features of hand-made candidates of one problem, by name."""
    rows = plausibility_features([problem], [[Candidate(answer, "") for answer in answers]])[0]
    return [dict(zip(FEATURES, row, strict=True)) for row in rows]


def policy(theta, features):
    logits = features @ theta
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def skill(theta, features, is_right):
    return (policy(theta, features) * is_right).sum(axis=1)


def ascend(features, is_right, steps):
    """Return θ after exact gradient ascent on the mean probability of the right answer."""
    theta = np.zeros(features.shape[-1])
    for _ in range(steps):
        probs = policy(theta, features)
        value = (probs * is_right).sum(axis=1, keepdims=True)
        weights = probs * (is_right - value) / len(features)
        theta += np.tensordot(weights, features, axes=2)
    return theta


def test_shape_names_and_bounds(features):
    assert features.shape == (500, 16, len(FEATURES))
    assert features.dtype == np.float64
    assert len(set(FEATURES)) == len(FEATURES) == 45
    assert np.abs(features).max() <= 1


@pytest.mark.parametrize("ranges", [OperandRanges(sums=(1, 3)), OperandRanges(sums=(1, 10**7))])
def test_bounds_for_other_ranges(ranges):
    features = plausibility_features(*draw(1, ranges))
    assert np.isfinite(features).all()
    assert np.abs(features).max() <= 1


def test_no_feature_is_a_combination_of_others(features):
    # What is the same for all candidates of a problem does not move a softmax.
    centred = features - features.mean(axis=1, keepdims=True)
    assert np.linalg.matrix_rank(centred.reshape(-1, len(FEATURES))) == len(FEATURES)


def test_answer_is_never_read(drawn, features, monkeypatch):
    def forbidden(problem):
        raise AssertionError(f"the answer of {problem} was read")

    monkeypatch.setattr(ArithmeticProblem, "answer", property(forbidden))
    np.testing.assert_array_equal(plausibility_features(*drawn), features)


def test_slip_is_never_read(drawn, features):
    problems, candidates = drawn
    blank = [[replace(candidate, slip="?") for candidate in row] for row in candidates]
    np.testing.assert_array_equal(plausibility_features(problems, blank), features)


def test_order_of_candidates_does_not_matter(drawn, features):
    problems, candidates = drawn
    backwards = [row[::-1] for row in candidates]
    np.testing.assert_array_equal(plausibility_features(problems, backwards), features[:, ::-1])


@pytest.mark.parametrize(
    ("feature", "modulus"),
    [
        ("last digit", 10),
        ("casting out nines", 9),
        ("parity", 2),
        ("casting out threes", 3),
        ("casting out fives", 5),
    ],
)
def test_residue_checks_against_the_answer(drawn, features, feature, modulus):
    for problem, row, values in zip(*drawn, features, strict=True):
        name = feature if feature in FEATURES else f"{feature}, {problem.kind}"
        divisor = problem.operands[1] if problem.kind == "division" else 1
        passes = [(c.answer - problem.answer) * divisor % modulus == 0 for c in row]
        np.testing.assert_array_equal(values[:, FEATURES.index(name)], np.where(passes, 1, -1))


def test_every_kind_has_weights_of_its_own(drawn, features):
    for problem, values in zip(drawn[0], features, strict=True):
        others = [f", {kind}" for kind in KINDS if kind != problem.kind]
        foreign = [name.endswith(tuple(others)) for name in FEATURES]
        assert sum(foreign) == 24
        assert not values[:, foreign].any()


def test_sum_by_hand():
    plain, round_, negative = named(SUM, 52, 60, -27)
    assert plain["last digit, two_step"] == -1  # 7 + 5 - 4 ends in 8
    assert plain["casting out nines, two_step"] == -1  # 0 + 8 - 4 leaves 4, 52 leaves 7
    assert plain["parity"] == plain["casting out threes"] == 1  # 58 and 52 are six apart
    assert plain["near the estimate, two_step"] == pytest.approx(np.exp(-14 / 7.4))
    assert plain["far from the estimate, two_step"] == pytest.approx(14 / 74)
    assert plain["wrong magnitude, two_step"] == pytest.approx(np.log10(67 / 53))
    assert plain["above every operand, two_step"] == 1
    assert plain["even"] == 1 and plain["round"] == plain["negative"] == -1
    assert round_["round"] == round_["leading digit of the estimate"] == 1
    assert plain["leading digit of the estimate"] == -1
    assert negative["sign of the estimate"] == -1 and negative["negative"] == 1
    assert negative["repeats an operand"] == negative["beside an operand"] == 1
    assert plain["beside an operand"] == pytest.approx(np.exp(-17 / 5))
    assert negative["above every operand, two_step"] == -1
    assert negative["digits of the estimate"] == 1


def test_product_by_hand():
    right_one, long, small = named(PRODUCT, 378, 3780, 7)
    assert right_one["last digit, multiplication"] == 1
    assert right_one["casting out nines, multiplication"] == 1
    assert right_one["far from the estimate, multiplication"] == pytest.approx(78 / 300)
    assert right_one["digits of the estimate"] == 1 and long["digits of the estimate"] == -1
    assert long["four digits or more"] == 1 and long["one digit"] == -1
    assert long["wrong magnitude, multiplication"] == 1  # a factor of more than ten
    assert small["one digit"] == 1 and small["far from the estimate, multiplication"] < 1


def test_quotient_is_checked_by_multiplying_back():
    right_one, same_last_digit, wrong, doubled = named(QUOTIENT, 7, 12, 6, 55)
    assert right_one["last digit, division"] == 1
    assert same_last_digit["last digit, division"] == 1  # 12 · 8 = 96 ends in 6 as 56 does
    assert wrong["last digit, division"] == -1
    assert right_one["near the estimate, division"] == pytest.approx(np.exp(-0.5 / 0.75))
    assert doubled["doubled last digit"] == doubled["ends in five"] == 1


def test_clues_by_hand():
    clues = read_clues([SUM, PRODUCT, QUOTIENT])
    np.testing.assert_array_equal(clues.estimate[:, 0], [66, 300, 7.5])
    np.testing.assert_array_equal(clues.yardstick[:, 0], [74, 300, 7.5])
    np.testing.assert_array_equal(clues.operands, [[27, 35, 4], [27, 14, 27], [56, 8, 56]])


@pytest.mark.parametrize(
    ("number", "rounded"), [(1, 1), (9, 9), (14, 10), (15, 20), (94, 90), (95, 100), (449, 400)]
)
def test_round_to_one_digit(number, rounded):
    assert round_to_one_digit(number) == rounded


def test_skill_grows_with_training_from_a_random_guess(drawn, features):
    is_right = right(drawn[1])
    skills = [skill(ascend(features, is_right, n), features, is_right) for n in (0, 5, 100)]
    means = [float(values.mean()) for values in skills]
    assert means[0] == pytest.approx(1 / 16)
    assert means[0] < means[1] - 0.2 < means[2] - 0.4
    assert means[2] > 0.9  # 0.94 after 100 steps, 0.98 after 1000


def test_skill_carries_over_to_new_problems(drawn, features):
    theta = ascend(features, right(drawn[1]), 30)
    problems, candidates = draw(7)
    values = skill(theta, plausibility_features(problems, candidates), right(candidates))
    assert values.mean() > 0.75
    by_kind = [values[k :: len(KINDS)].mean() for k in range(len(KINDS))]
    assert max(by_kind) - min(by_kind) > 0.1  # multiplication and division are harder


def test_no_problems():
    with pytest.raises(ValueError, match="at least one problem, got none"):
        plausibility_features([], [])


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="problems has 1, candidates has 2"):
        plausibility_features([SUM], [[], []])


def test_ragged_candidates():
    one, two = [Candidate(1, "")], [Candidate(1, ""), Candidate(2, "")]
    with pytest.raises(ValueError, match=r"as many for every problem, got \[1, 2\]"):
        plausibility_features([SUM, SUM], [one, two])
