"""No public function of laws, planner and noise takes NaN, infinity or a mask for a number."""

from __future__ import annotations

import inspect
import types
from numbers import Real

import numpy as np
import pytest

from support.number_cases import CASES, Case
from ustat_grpo import laws, noise, planner

RECORDS = {
    "Band", "Choice", "Curvature", "ExpectedGap", "GroupSizeEstimate", "GroupSizeRange",
    "Interval", "MinibatchLaw", "NoiseMatrices", "Plan", "Prediction", "PromptValues",
    "SecondOrder", "StdNormalisation",
}  # fmt: skip
"""What functions return: nobody makes them by hand. Their methods are tested all the same."""

NO_NUMBERS = {"load_sample", "save_sample", "to_html"}
"""These take a path."""


def name_of(call: object) -> str:
    """Module and name, so that a method of an object is that of its class."""
    function = getattr(call, "__func__", call)
    return f"{function.__module__}.{function.__qualname__}"


def methods_of(kind: type) -> list[object]:
    found = [inspect.getattr_static(kind, name) for name in vars(kind) if name[0] != "_"]
    plain = [getattr(each, "__func__", each) for each in found]
    return [
        each for each in plain if inspect.isfunction(each) and each.__module__ == kind.__module__
    ]


def public() -> set[str]:
    """Every function that a documented name leads to: of packages, of modules, and methods."""
    things: list[object] = []
    for package in (laws, laws.binary, planner, noise):
        things += [getattr(package, name) for name in package.__all__]
    for module in [each for each in things if isinstance(each, types.ModuleType)]:
        own = [each for name, each in vars(module).items() if name[0] != "_"]
        things += [each for each in own if getattr(each, "__module__", "") == module.__name__]
    calls = [each for each in things if inspect.isfunction(each)]
    kinds = [each for each in things if isinstance(each, type)]
    kinds = [each for each in kinds if not getattr(each, "_is_protocol", False)]
    calls += [kind for kind in kinds if kind.__name__ not in RECORDS]
    calls += [method for kind in kinds for method in methods_of(kind)]
    return {name_of(call) for call in calls if call.__name__ not in NO_NUMBERS}


def test_every_public_function_has_a_case():
    assert {name_of(case.call) for case in CASES} == public()


@pytest.mark.parametrize("case", CASES, ids=lambda case: name_of(case.call))
def test_the_arguments_are_right_and_all_there(case):
    assert set(inspect.signature(case.call).parameters) == set(case.arguments)
    case.call(**case.arguments)


def spoiled(value: object, number: float) -> object:
    """Put a number in the first place, in whatever holds the argument's."""
    if isinstance(value, Real):
        return number
    if isinstance(value, list):
        return [spoiled(value[0], number), *value[1:]]
    array = np.array(value, dtype=float)
    array.flat[0] = number
    return array


def masked(value: object) -> object:
    if isinstance(value, list) and not isinstance(value[0], np.ndarray):
        return np.ma.array(value, mask=[True] + [False] * (len(value) - 1))
    if isinstance(value, list):
        return [masked(value[0]), *value[1:]]
    array = np.ma.array(value)
    array[(0,) * array.ndim] = np.ma.masked
    return array


def holds_numbers(value: object) -> bool:
    if isinstance(value, list):
        return holds_numbers(value[0])
    return isinstance(value, np.ndarray | Real)


SPOILED = [
    pytest.param(case, name, spoiled(value, number), id=f"{name_of(case.call)}-{name}-{number}")
    for case in CASES
    for name, value in case.arguments.items()
    if holds_numbers(value)
    for number, allowed in ((np.nan, case.spared), (np.inf, case.unbounded))
    if name not in allowed
]
MASKED = [
    pytest.param(case, name, masked(value), id=f"{name_of(case.call)}-{name}-masked")
    for case in CASES
    for name, value in case.arguments.items()
    if holds_numbers(value) and not isinstance(value, Real)
]


@pytest.mark.parametrize(("case", "name", "wrong"), [*SPOILED, *MASKED])
def test_what_is_no_number_is_refused_by_name(case: Case, name: str, wrong: object):
    with pytest.raises(ValueError, match=rf"^{name}\b"):
        case.call(**case.arguments | {name: wrong})
