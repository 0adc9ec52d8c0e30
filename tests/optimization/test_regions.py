"""Boxes: projection against its definition and a solver, and error messages."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.optimize import minimize

from ustat_grpo import Box, TugOfWar

SKEWED = TugOfWar(num_axes=2, num_flat=1).axes * np.array([[0.5], [3.0]])
BOXES = {
    "coordinates": Box([-1.0, 0.0, -0.5], [0.5, 2.0, 0.5]),
    "one bound for all": Box(-0.5, 1.5),
    "axes": Box([-1.0, 0.2], [0.5, 3.0], SKEWED),
    "one axis": Box(-1.0, 0.5, [[1.0, 2.0, -2.0]]),
    "all axes": Box(-6.0, 4.0, 2 * np.linalg.qr(np.vander([1.0, 2.0, 3.0]))[0]),
}
every_box = pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)


@every_box
def test_projection_is_the_nearest_point_by_the_variational_inequality(box, rng):
    """(θ − Πθ)·(φ − Πθ) ≤ 0 for all φ of the box, which holds at the nearest point only.

    Would catch: a projection along R that forgets (RRᵀ)⁻¹, or one that moves the flat part.
    """
    inside = box.project(rng.normal(scale=3, size=(500, 3)))
    for theta in rng.normal(scale=3, size=(50, 3)):
        nearest = box.project(theta)
        assert box.contains(nearest)
        assert ((inside - nearest) @ (theta - nearest)).max() <= 1e-12


@every_box
def test_projection_against_a_solver(box, rng):
    """Sequential quadratic programming knows nothing of orthogonal rows."""
    for theta in rng.normal(scale=3, size=(5, 3)):
        low, high = np.broadcast_arrays(box.low, box.high)
        sides = [
            {"type": "ineq", "fun": lambda phi, low=low: box.coordinates(phi) - low},
            {"type": "ineq", "fun": lambda phi, high=high: high - box.coordinates(phi)},
        ]
        found = minimize(
            lambda phi, theta=theta: ((phi - theta) ** 2).sum(),
            np.zeros(3), method="SLSQP", constraints=sides, options={"ftol": 1e-14},
        )  # fmt: skip
        np.testing.assert_allclose(box.project(theta), found.x, rtol=0, atol=1e-5)


@every_box
def test_projection_moves_nothing_that_is_inside_and_nothing_twice(box, rng):
    points = np.concatenate([rng.normal(scale=scale, size=(100, 3)) for scale in (0.3, 3.0)])
    once = box.project(points)
    np.testing.assert_allclose(box.project(once), once, rtol=0, atol=1e-14)
    kept = np.array([box.contains(theta) for theta in points])
    assert 5 < kept.sum() < 195
    np.testing.assert_array_equal(once[kept], points[kept])
    assert (once[~kept] != points[~kept]).any(axis=1).all()


def test_coordinates_and_projection_by_hand():
    """t = θ₁ + θ₂ in [−1, 3]: half of the excess of 2 comes off either entry."""
    box = Box(-1.0, 3.0, [[1.0, 1.0]])
    assert box.coordinates([4.0, 1.0]) == pytest.approx([5.0])
    np.testing.assert_allclose(box.project([4.0, 1.0]), [3.0, 0.0], atol=1e-15)
    np.testing.assert_allclose(Box(0, 1).project([[2.0, -1.0], [0.5, 0.0]]), [[1, 0], [0.5, 0]])


def test_axes_leave_flat_directions_alone(rng):
    """Would catch: clipping θ itself, which no flat part of size 100 would survive."""
    problem = TugOfWar(num_axes=2, num_flat=2)
    flat = np.linalg.svd(problem.axes)[2][2:]
    theta = 5 * rng.normal(size=4) + 100 * flat[0]
    projected = Box(-1.0, 3.0, problem.axes).project(theta)
    np.testing.assert_allclose(flat @ projected, flat @ theta, rtol=0, atol=1e-12)


def test_contains_up_to_rounding():
    """Would catch: a slack of 1e-6, an open box."""
    box = Box([0.0, -1.0], [1.0, 1.0])
    assert box.contains([0.0, 1.0])
    assert box.contains([[0.0, 1.0], [1.0, -1.0]])
    assert not box.contains([0.0, 1.0 + 1e-6])
    assert not box.contains([-1e-6, 0.0])
    assert not box.contains([[0.5, 0.0], [0.5, 1.1]])
    problem = TugOfWar()
    for t, inside in [(-1, True), (3, True), (3.001, False), (-1.001, False)]:
        assert Box(-1, 3, problem.axes).contains(problem.theta(t)) == inside


def test_a_box_does_not_change_with_the_arrays_it_was_made_from():
    given = np.zeros(2), np.ones(2), np.eye(2)
    box = Box(*given)
    for array in given:
        array[:] = 7.0
    np.testing.assert_array_equal(box.project([2.0, -1.0]), [1.0, 0.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 1.0), "low must be below high, got low=1.0 and high=1.0"),
        (([0, 2], [1, 1]), "low must be below high, got low=[0, 2] and high=[1, 1]"),
        ((np.nan, 1.0), "low must be finite, got 1 NaN or infinity"),
        ((0.0, [np.inf, 1]), "high must be finite, got 1 NaN or infinity"),
        ((np.zeros((2, 2)), 1.0), "low must be 1-dimensional and not empty, got shape (2, 2)"),
        ((0.0, 1.0, [1.0, 1.0]), "axes must be 2-dimensional and not empty, got shape (2,)"),
        ((0.0, 1.0, [[1.0, np.nan]]), "axes must be finite, got 1 NaN or infinity"),
        ((0.0, 1.0, [[1.0, 0.0], [1.0, 1.0]]),
         "axes must have orthogonal rows that are not zero, got cosines and lengths off by 0.707"),
    ],
)  # fmt: skip
def test_bad_boxes_are_refused(arguments, message):
    with pytest.raises(ValueError) as error:
        Box(*arguments)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "axes",
    [
        pytest.param([[1e6, 0.0], [1e-4, 1e-4]], id="45 degrees, of unlike lengths"),
        pytest.param([[1.0, 0.0], [0.0, 0.0]], id="a row of length zero"),
        pytest.param(np.eye(3)[:, :2], id="more rows than columns"),
    ],
)
def test_rows_that_span_no_axes_are_refused(axes):
    """Angles, not products: a short row at 45° to a long one; and no row may be zero."""
    with pytest.raises(ValueError, match=r"^axes must"):
        Box(-1.0, 1.0, axes)


@pytest.mark.parametrize(
    "arguments", [([0, 0, 0], [1, 1]), ([0, 0, 0], 1, np.eye(2)), (0, [1, 1, 1], np.eye(2))]
)
def test_bounds_of_another_number_are_named(arguments):
    with pytest.raises(ValueError, match=r"low|high"):
        Box(*arguments)


@pytest.mark.parametrize(
    ("box", "length"),
    [(Box([0, 0, 0], 1), 3), (Box(0, 1, np.eye(3)[:1]), 3), (Box(0, 1, [[1.0]]), 1)],
    ids=["coordinates", "axes", "one entry"],
)
def test_boxes_know_the_length_of_theta(box, length):
    """Would catch: the number of axes taken for the length of θ, a length of 1 for any."""
    box.require_dimension(length)
    message = f"projection must be for theta of length {length + 1}, got {length}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        box.require_dimension(length + 1)
    for dimension in (1, 2, 7):
        Box(0, 1).require_dimension(dimension)
