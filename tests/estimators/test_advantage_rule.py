"""The rule that is read off an estimator, against the estimator's own answers."""

from __future__ import annotations

import itertools
import re
from dataclasses import InitVar, dataclass, field
from typing import ClassVar

import numpy as np
import pytest

import ustat_grpo
from ustat_grpo import (
    BatchStdNormalised,
    BestOfGroup,
    ConstantBaseline,
    Critic,
    DropEqualGroups,
    EmpiricalBayes,
    Estimator,
    GreedyBaseline,
    GroupMean,
    Grpo,
    HitScaled,
    JamesStein,
    KeepSingletons,
    LeaveOneOutNormalised,
    LengthWeightedMean,
    OptimalBaseline,
    Oracle,
    PassAtK,
    RunningRewards,
    ScoreWeightedMean,
    Shrinkage,
    Sign,
    StdNormalised,
    Vanilla,
    Whitened,
)
from ustat_grpo.estimators import NOTHING, SideInformation
from ustat_grpo.estimators.probing import (
    AdvantageRule,
    advantage_rule,
    affine_form,
    looks_beyond_group,
)

BINARY, BACKWARDS, GRADED = np.array([0.0, 1.0]), np.array([1.0, 0.0]), np.array([-1.5, 0.25, 2.0])
FAR = np.array([1000.0, 1001.0, 1002.5])
PUBLIC = {
    "vanilla": (Vanilla(), 1),
    "oracle": (Oracle(), 1),
    "grpo": (Grpo(), 2),
    "group_mean": (GroupMean(), 2),
    "constant": (ConstantBaseline(0.3), 1),
    "optimal": (OptimalBaseline(), 1),
    "shrinkage": (Shrinkage(0.4, 0.2), 2),
}
HISTORY = RunningRewards().updated(np.array([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]))
TABULATED = {  # functions of the number of successes
    "std": StdNormalised(),
    "leave one out": LeaveOneOutNormalised(),
    "sign": Sign(),
    "pass@1": PassAtK(1),
    "pass@3": PassAtK(3),
    "best": BestOfGroup(),
    "singletons": KeepSingletons(StdNormalised(1e-6), 1e-6),
    "empirical Bayes": EmpiricalBayes(HISTORY),
}
BEYOND = {  # look at other groups, or at what no compiled loop is told
    "batch std": BatchStdNormalised(),
    "whitened": Whitened(Vanilla()),
    "hits": HitScaled(GroupMean()),
    "dropped": DropEqualGroups(Grpo()),
    "James-Stein": JamesStein(),
    "score-weighted": ScoreWeightedMean(),
    "greedy": GreedyBaseline(),
    "length-weighted": LengthWeightedMean(),
}
every_estimator = pytest.mark.parametrize(("estimator", "least"), PUBLIC.values(), ids=PUBLIC)


@dataclass(frozen=True)
class Custom:
    """An estimator of the test's own: a function of rewards (..., G), V and b* (..., 1)."""

    function: object

    def advantages(self, rewards, side=NOTHING):
        return self.function(rewards, side.value[..., None], side.optimal_baseline[..., None])


def standardised(rewards, value, best):
    """(Z − Z̄)/(std + 0.01), as trainers do."""
    centred = rewards - rewards.mean(axis=-1, keepdims=True)
    return centred / (rewards.std(axis=-1, keepdims=True) + 0.01)


NOT_AFFINE = {
    "standardised": standardised,
    "against V": lambda z, v, b: standardised(z, v, b) - 0.5 * v + 2 * b,
    "all or nothing": lambda z, v, b: z - (z.min(axis=-1, keepdims=True) > 0.5),
    "median": lambda z, v, b: z - np.median(z, axis=-1, keepdims=True),
}
REFUSED = {
    "its place": lambda z, v, b: z * np.arange(1, z.shape[-1] + 1),
    "the output before": lambda z, v, b: z - np.roll(z, 1, axis=-1),
    "the first two": lambda z, v, b: z - z[..., :2].mean(axis=-1, keepdims=True),
    "V squared": lambda z, v, b: z - v**2,
    "rewards times V": lambda z, v, b: z * v,
    "V times b*": lambda z, v, b: z - v * b,
    "a clipped V": lambda z, v, b: z - np.clip(v, 0, 1),
}


def predicted(rule: AdvantageRule, rewards, levels, value, best):
    """What the loop makes of the rule, output by output."""
    out = np.zeros(len(rewards))
    for i, reward in enumerate(rewards):
        others = sum(rewards[j] for j in range(len(rewards)) if j != i)
        own = rule.own * reward + rule.other * others + rule.constant
        if len(rule.tabulated):
            second = int(reward == levels[1])
            own = rule.tabulated[sum(rewards == levels[1]), second]
        out[i] = own + rule.value * value + rule.optimal_baseline * best
    return out


def test_every_public_estimator_is_read_here():
    public = {
        thing
        for thing in vars(ustat_grpo).values()
        if isinstance(thing, type) and thing is not Estimator and hasattr(thing, "advantages")
    }
    here = [estimator for estimator, _ in PUBLIC.values()]
    here += [*TABULATED.values(), *BEYOND.values(), Critic()]
    assert {type(estimator) for estimator in here} == public


@every_estimator
@pytest.mark.parametrize("size", [1, 2, 3, 8, 60])
@pytest.mark.parametrize("levels", [BINARY, BACKWARDS, GRADED, FAR], ids=str)
def test_public_estimators_are_affine(estimator, least, size, levels, rng):
    """None is tabulated, and the rule gives their advantages for rewards drawn at random."""
    if size < least:
        with pytest.raises(ValueError, match=r"^group_size must be at least 2 .*, got 1$"):
            advantage_rule(estimator, size, levels)
        return
    rule = advantage_rule(estimator, size, levels)
    assert len(rule.tabulated) == 0
    for _ in range(5):
        rewards, (value, best) = rng.choice(levels, size), rng.normal(size=2)
        expected = estimator.advantages(rewards, SideInformation(value, best))
        obtained = predicted(rule, rewards, levels, value, best)
        np.testing.assert_allclose(obtained, expected, rtol=1e-12, atol=1e-12 * abs(levels).max())


def test_rules_by_hand():
    """Z − mean of the three others; 0.6 of it less 0.4·0.2. Would catch: 1/G for 1/(G−1)."""
    nothing = dict(constant=0, value=0, optimal_baseline=0)
    expected = {
        "vanilla": dict(own=1, other=0) | nothing,
        "oracle": dict(own=1, other=0) | nothing | dict(value=-1),
        "optimal": dict(own=1, other=0) | nothing | dict(optimal_baseline=-1),
        "constant": dict(own=1, other=0) | nothing | dict(constant=-0.3),
        "grpo": dict(own=1, other=-1 / 3) | nothing,
        "group_mean": dict(own=3 / 4, other=-1 / 4) | nothing,
        "shrinkage": dict(own=1, other=-0.2) | nothing | dict(constant=-0.08),
    }
    for name, (estimator, _) in PUBLIC.items():
        rule = advantage_rule(estimator, 4, GRADED)._asdict()
        assert rule.pop("tabulated").shape == (0, 2)
        assert rule == pytest.approx(expected[name], abs=1e-15), name


@pytest.mark.parametrize("function", NOT_AFFINE.values(), ids=NOT_AFFINE)
@pytest.mark.parametrize("levels", [BINARY, BACKWARDS], ids=str)
@pytest.mark.parametrize("size", [3, 4, 6])
def test_others_are_tabulated_for_two_levels(function, levels, size):
    """Every group of size 3, 4 and 6. Would catch: the rows of the table counted from the top."""
    estimator = Custom(function)
    rule = advantage_rule(estimator, size, levels)
    assert rule.tabulated.shape == (size + 1, 2)
    for group in itertools.product(levels, repeat=size):
        rewards = np.array(group)
        side = SideInformation(np.array([0.3]), np.array([-0.8]))
        expected = estimator.advantages(rewards[None], side)[0]
        obtained = predicted(rule, rewards, levels, 0.3, -0.8)
        np.testing.assert_allclose(obtained, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2])
def test_groups_too_small_to_tell_may_be_read_either_way(size):
    rule = advantage_rule(Custom(standardised), size, BINARY)
    for group in itertools.product(BINARY, repeat=size):
        expected = standardised(np.array(group), 0, 0)
        np.testing.assert_allclose(predicted(rule, np.array(group), BINARY, 0, 0), expected)


def message(estimator):
    return re.escape(
        "estimator must be affine in the rewards, or depend on 0/1 rewards through their number "
        f"only, for many runs at once, got {estimator!r}"
    )


@pytest.mark.parametrize("function", NOT_AFFINE.values(), ids=NOT_AFFINE)
def test_others_are_refused_for_three_levels(function):
    estimator = Custom(function)
    with pytest.raises(ValueError, match=f"^{message(estimator)}$"):
        advantage_rule(estimator, 4, GRADED)


@pytest.mark.parametrize("function", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("levels", [BINARY, GRADED], ids=str)
@pytest.mark.parametrize("size", [3, 8])
def test_what_is_no_function_of_the_count_is_refused(function, levels, size):
    """Would catch: checks that ask for one order of the rewards, or for V = b* = 0 only."""
    estimator = Custom(function)
    with pytest.raises(ValueError, match=f"^{message(estimator)}$"):
        advantage_rule(estimator, size, levels)


@pytest.mark.parametrize("estimator", TABULATED.values(), ids=TABULATED)
@pytest.mark.parametrize("size", [3, 4, 60])
def test_functions_of_the_count_are_read(estimator, size, rng):
    """Affine or tabulated, the rule gives their advantages for 0/1 rewards drawn at random."""
    rule = advantage_rule(estimator, size, BINARY)
    for _ in range(20):
        rewards = rng.choice(BINARY, size)
        obtained = predicted(rule, rewards, BINARY, 0.3, -0.8)
        np.testing.assert_allclose(obtained, estimator.advantages(rewards), rtol=0, atol=1e-12)


def beyond(estimator):
    return re.escape(
        "estimator must look at one group at a time, and at no more than its rewards, V and "
        f"b*, for many runs at once, got {estimator!r}"
    )


@pytest.mark.parametrize(
    "estimator", [each for name, each in BEYOND.items() if name != "length-weighted"], ids=str
)
@pytest.mark.parametrize("size", [3, 8])
def test_what_looks_beyond_the_group_is_refused(estimator, size):
    """Would catch: a batch of one group, in which James–Stein is GRPO and so is DAPO's."""
    with pytest.raises(ValueError, match=f"^{beyond(estimator)}$"):
        advantage_rule(estimator, size, BINARY)
    assert looks_beyond_group(estimator, size, np.array([-1.5, 0.0, 2.0]))


@pytest.mark.parametrize(("estimator", "missing"), [
    (LengthWeightedMean(), "lengths"), (Critic(), "prediction"),
])  # fmt: skip
def test_what_nobody_knows_is_asked_for(estimator, missing):
    with pytest.raises(ValueError, match=rf"^{missing} must be given for the"):
        advantage_rule(estimator, 4, BINARY)


def test_two_outputs_weigh_the_same_without_each_other():
    """At G = 2 the weighted mean of the others is the other: an affine rule, and the right one."""
    rule = advantage_rule(ScoreWeightedMean(), 2, GRADED)
    assert (rule.own, rule.other, len(rule.tabulated)) == (1.0, -1.0, 0)


@dataclass
class Counting:
    """GRPO, scaled, that counts how often it is asked."""

    scale: float = 1.0
    asked: int = 0

    def advantages(self, rewards, side=NOTHING):
        self.asked += 1
        return self.scale * Grpo().advantages(rewards, side)


class Scaled(Grpo):
    """A subclass that is no dataclass of its own: equal to every other by its fields."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def advantages(self, rewards, side=NOTHING):
        return self.scale * super().advantages(rewards, side)


@dataclass(frozen=True)
class Uncompared:
    """With a field that equality leaves out."""

    scale: float = field(compare=False)

    def advantages(self, rewards, side=NOTHING):
        return self.scale * Grpo().advantages(rewards, side)


@dataclass(frozen=True)
class AtBirth:
    """With what a constructor keeps beside the fields."""

    scale: InitVar[float]

    def __post_init__(self, scale):
        object.__setattr__(self, "kept", {"scale": scale})

    def advantages(self, rewards, side=NOTHING):
        return vars(self)["kept"]["scale"] * Grpo().advantages(rewards, side)


@dataclass(frozen=True)
class OfItsClass:
    """With a setting in its class."""

    settings: ClassVar[dict[str, float]] = {}
    scale: InitVar[float]

    def __post_init__(self, scale):
        self.settings["scale"] = scale

    def advantages(self, rewards, side=NOTHING):
        return self.settings["scale"] * Grpo().advantages(rewards, side)


class TestMemory:
    def test_what_may_change_is_probed_at_every_call(self):
        """Would catch: an estimator known by its identity, whose first rule is then kept."""
        estimator = Counting()
        assert advantage_rule(estimator, 4, BINARY).own == 1.0
        once, estimator.scale = estimator.asked, 3.0
        assert advantage_rule(estimator, 4, BINARY).own == pytest.approx(3.0)
        assert estimator.asked == 2 * once

    def test_a_part_that_may_change_is_enough(self):
        inner = Counting()
        assert looks_beyond_group(Whitened(inner), 4, BINARY)
        once = inner.asked
        assert looks_beyond_group(Whitened(inner), 4, BINARY)
        assert inner.asked == 2 * once

    def test_what_cannot_change_is_probed_once(self, monkeypatch):
        """Until its class answers by another method."""
        count = itertools.count()

        def counted(self, rewards, side=NOTHING):
            next(count)
            return rewards * self.baseline

        monkeypatch.setattr(ConstantBaseline, "advantages", counted)
        estimator = ConstantBaseline(0.7310585786)
        assert advantage_rule(estimator, 4, BINARY).own == estimator.baseline
        once = next(count)
        advantage_rule(ConstantBaseline(estimator.baseline), 4, BINARY)
        assert next(count) == once + 1
        monkeypatch.undo()
        assert advantage_rule(estimator, 4, BINARY).own == 1.0

    @pytest.mark.parametrize("kind", [Scaled, Uncompared, AtBirth, OfItsClass], ids=str)
    def test_what_a_user_wrote_is_probed_at_every_call(self, kind):
        """Would catch: the rule of one estimator for another that is equal to it by its fields."""
        assert [advantage_rule(kind(scale), 4, BINARY).own for scale in (1.0, 5.0)] == [1.0, 5.0]

    @pytest.mark.parametrize("other", [(3, BINARY), (4, GRADED), (4, BACKWARDS)], ids=str)
    def test_sizes_and_levels_are_told_apart(self, other):
        """Would catch: the table of one group size, or of levels in one order, for another."""
        assert len(advantage_rule(Sign(), 4, BINARY).tabulated) == 5
        if other[1] is GRADED:
            with pytest.raises(ValueError, match=r"^estimator must be affine"):
                advantage_rule(Sign(), *other)
        else:
            found = advantage_rule(Sign(), *other).tabulated
            assert not np.array_equal(found, advantage_rule(Sign(), 4, BINARY).tabulated)

    def test_nobody_writes_into_what_is_remembered(self):
        first = advantage_rule(Sign(), 4, BINARY)
        expected = first.tabulated.copy()
        first.tabulated[:] = np.nan
        np.testing.assert_array_equal(advantage_rule(Sign(), 4, BINARY).tabulated, expected)


# The two readings.


@pytest.mark.parametrize("name", ["V squared", "V times b*", "a clipped V"])
def test_at_one_parameter_a_shift_may_depend_on_v_in_any_way(name):
    """What no rule for all θ covers has a form at one; a slope that changes with V has neither."""
    value, best = np.array([0.2, 1.4]), np.array([0.5, -0.3])
    form = affine_form(Custom(REFUSED[name]), 4, GRADED, value, best)
    assert form is not None and (form.own, form.other) == pytest.approx((1.0, 0.0))
    expected = REFUSED[name](np.zeros((2, 1)), value[:, None], best[:, None])[:, 0]
    np.testing.assert_allclose(form.shift, expected)
    assert affine_form(Custom(REFUSED["rewards times V"]), 4, GRADED, value, best) is None


@every_estimator
def test_both_readings_of_an_affine_estimator_agree(estimator, least):
    value, best = np.array([0.2, 1.4, -0.6]), np.array([0.5, -0.3, 0.1])
    for size in (least, 3, 16):
        rule = advantage_rule(estimator, size, GRADED)
        form = affine_form(estimator, size, GRADED, value, best)
        assert form is not None
        assert (form.own, form.other) == pytest.approx((rule.own, rule.other), abs=1e-14)
        expected = rule.constant + rule.value * value + rule.optimal_baseline * best
        np.testing.assert_allclose(form.shift, expected, rtol=0, atol=1e-14)
