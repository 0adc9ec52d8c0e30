"""Certificates against sampled points, other formulas, finer grids and bounds shown to fail."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest

from support.problems import random_problem
from ustat_grpo import SoftmaxBandit, TugOfWar
from ustat_grpo.laws import mse
from ustat_grpo.optimization import certificate
from ustat_grpo.optimization.certificate import (
    certify,
    certify_tug_of_war,
    largest_error,
    smoothness_bound,
)

TUG = TugOfWar()
BOUNDS = {"low": -1.0, "high": 3.0}
CONSTANTS = ("smoothness", "pl_constant", "concavity", "largest_gap")


def tug_of_war(cells, problem=TUG, **bounds):
    return certify(problem.bandit, axes=problem.axes, cells=cells, **BOUNDS | bounds)


def planar_bandit():
    """Four prompts, three actions, two features: the one seed of sixty with so round a hill."""
    rng = np.random.default_rng(44)
    features, success = rng.normal(size=(4, 3, 2)), rng.uniform(size=(4, 3))
    rewards = np.stack([1 - success, success], axis=-1)
    offsets = rng.normal(scale=0.3, size=(4, 3))
    return SoftmaxBandit(features, [0.0, 2.0], rewards, [0.4, 0.3, 0.2, 0.1], offsets)


PLANAR = planar_bandit()
PLANAR_BOUNDS = {"low": [-0.2, 1.5], "high": [0.7, 2.5]}


def hessian(bandit, theta):
    """∇²J by central differences of the gradient of `at`."""
    steps = 1e-5 * np.eye(len(theta))
    rows = [bandit.at(theta + h).gradient - bandit.at(theta - h).gradient for h in steps]
    return np.array(rows) / 2e-5


def sampled(bandit, optimum, points, axes=None):
    """L, μ, μ_w and sup Δ over some points, from `at` alone; axes give the identifiable part."""
    best, rows = bandit.at(optimum).objective, []
    for theta in points:
        here = bandit.at(theta)
        away = optimum - theta
        if axes is not None:
            away = np.linalg.pinv(axes) @ (axes @ away)
        gap = best - here.objective
        norm = np.abs(np.linalg.eigvalsh(hessian(bandit, theta))).max()
        ratio = here.gradient @ here.gradient / (2 * gap)
        rows.append((norm, ratio, here.gradient @ away / (away @ away), gap))
    norm, ratio, pull, gap = np.array(rows).T
    return {
        "smoothness": norm.max(),
        "pl_constant": ratio.min(),
        "concavity": pull.min(),
        "largest_gap": gap.max(),
    }


def margins(certified, points):
    """How far each constant is on its safe side of what the points show; negative if it is not."""
    return {
        name: (getattr(certified, name) - points[name]) * (1 if name in safe_above else -1)
        for safe_above in [("smoothness", "largest_gap")]
        for name in CONSTANTS
    }


class TestDerivatives:
    @pytest.mark.parametrize("chunk", [1_000_000, 7])
    @pytest.mark.parametrize(
        ("bandit", "axes"), [(TUG.bandit, TUG.axes), (PLANAR, None)], ids=["tug", "planar"]
    )
    def test_against_the_snapshot(self, bandit, axes, chunk, rng, monkeypatch):
        """Would catch: a Hessian without one of its two rank-one terms; chunks out of order."""
        monkeypatch.setattr(certificate, "_CHUNK", chunk)
        problem = certificate._Problem.on(bandit, -1.0, 1.0, axes)
        points = rng.normal(size=(20, len(problem.basis)))
        value, gradient, second = problem.derivatives(points)
        for i, theta in enumerate(points @ problem.basis):
            here = bandit.at(theta)
            assert value[i] == pytest.approx(here.objective, abs=1e-14)
            np.testing.assert_allclose(gradient[i], problem.basis @ here.gradient, atol=1e-14)
            expected = problem.basis @ hessian(bandit, theta) @ problem.basis.T
            np.testing.assert_allclose(second[i], expected, rtol=0, atol=1e-9)

    def test_features_far_from_zero_cancel_nothing(self):
        """Only differences of features matter. Would catch: E[aφφᵀ] with φ as given."""
        moved = dataclasses.replace(PLANAR, features=np.asarray(PLANAR.features) + 1e5)
        found = certify(moved, cells=50, **PLANAR_BOUNDS)
        expected = certify(PLANAR, cells=50, **PLANAR_BOUNDS)
        for name in CONSTANTS:
            assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-6)


class TestBoundsOfCumulants:
    """E[ac], E[ac²] and E[ac³] − 3E[ac]E[c²] for rewards and features in [0, 1]."""

    LIMITS = np.array([1 / 4, 1 / (6 * np.sqrt(3)), 1 / 8])

    @staticmethod
    def cumulants(probs, features):
        """The largest over all mean rewards: these are linear, so indicators of a sign suffice."""
        c = features - probs @ features
        shapes = np.array([c, c**2, c**3 - 3 * (probs @ c**2) * c])
        centred = shapes - (shapes @ probs)[:, None]
        return np.maximum(centred, 0) @ probs

    def test_random_search(self, rng):
        """Would catch: RD³/9, or RD²/12; finds 99 % of every bound, so that none is loose."""
        largest = np.zeros(3)
        for _ in range(6_000):
            count = rng.integers(2, 6)
            features = rng.uniform(size=count)
            features[:2] = 0, 1
            probs = rng.dirichlet(np.full(count, rng.choice([0.1, 1.0])))
            largest = np.maximum(largest, self.cumulants(probs, features))
        assert (largest <= self.LIMITS * (1 + 1e-12)).all()
        assert (largest >= self.LIMITS * 0.99).all()

    def test_two_actions_attain_them(self):
        ends = np.array([0.0, 1.0])
        half = self.cumulants(np.array([0.5, 0.5]), ends)
        skewed = self.cumulants(np.array([0.5 - 1 / np.sqrt(12), 0.5 + 1 / np.sqrt(12)]), ends)
        np.testing.assert_allclose(half[[0, 2]], self.LIMITS[[0, 2]])
        assert skewed[1] == pytest.approx(self.LIMITS[1])


class TestSmoothnessBound:
    @pytest.mark.parametrize("dimension", [None, 3], ids=["tabular", "features"])
    def test_covers_sampled_hessians(self, dimension, rng):
        for _ in range(20):
            bandit, theta = random_problem(rng, reward_levels=(-1.0, 0.5, 2.0), dimension=dimension)
            norm = np.abs(np.linalg.eigvalsh(hessian(bandit, theta))).max()
            assert norm <= smoothness_bound(bandit)

    def test_is_attained(self):
        """One prompt, one right action. Would catch: RD²/10.5 for RD²/(6√3), or f left out."""
        bandit = SoftmaxBandit.tabular([0.0, 1.0], [[[1.0, 0.0], [0.0, 1.0]]])
        odds = (0.5 + 1 / np.sqrt(12)) / (0.5 - 1 / np.sqrt(12))
        norm = np.abs(np.linalg.eigvalsh(hessian(bandit, np.array([np.log(odds), 0.0])))).max()
        assert smoothness_bound(bandit) == pytest.approx(norm, rel=1e-6)
        assert smoothness_bound(bandit) == pytest.approx(1 / (3 * np.sqrt(3)))

    def test_one_hot_features_share_no_parameter(self):
        """Blocks do not add up: the maximum of f(x)R(x), not the mean of R(x)."""
        success = np.array([[0.2, 0.9], [0.5, 0.6]])
        probs = np.stack([1 - success, success], axis=-1)
        tabular = SoftmaxBandit.tabular([0.0, 1.0], probs, [0.25, 0.75])
        dense = SoftmaxBandit(np.eye(4).reshape(2, 2, 4), *_rest(tabular))
        assert smoothness_bound(tabular) == pytest.approx(0.25 * 0.7 / (3 * np.sqrt(3)))
        assert smoothness_bound(dense) > smoothness_bound(tabular)

    def test_tug_of_war(self):
        assert smoothness_bound(TUG.bandit) == pytest.approx(0.8 * 2 / (6 * np.sqrt(3)))
        assert tug_of_war(4000).smoothness < smoothness_bound(TUG.bandit)


def _rest(bandit):
    return bandit.reward_levels, bandit.reward_probs, bandit.prompt_probs, bandit.offsets


class TestCertify:
    @pytest.mark.parametrize("cells", [1, 2, 4, 7, 40, 400])
    @pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.3, 1.7), (-4.0, 8.0)])
    def test_holds_at_sampled_points_of_the_tug_of_war(self, cells, low, high, rng):
        """Coordinates over Θ and its ends, flat directions anywhere.

        Θ is the one of the project, all strongly concave (one cell: its centre is the most curved),
        or with tails so flat that the middle of a cell says little. Would catch: any one margin.
        """
        certified = tug_of_war(cells, low=low, high=high)
        coordinates = np.concatenate([rng.uniform(low, high, 50), [low, high, 0.999, 1.001]])
        points = [TUG.theta(t) + rng.normal() * np.array([1, -1]) for t in coordinates]
        found = sampled(TUG.bandit, certified.optimum, points, TUG.axes)
        # Differences leave 1e-9 in ∇²J and, next to θ*, 1e-16/1e-6 in the gap.
        assert min(margins(certified, found).values()) > -1e-8

    @pytest.mark.parametrize("cells", [10, 60])
    def test_holds_at_sampled_points_of_the_plane(self, cells, rng):
        certified = certify(PLANAR, cells=cells, **PLANAR_BOUNDS)
        points = rng.uniform(*PLANAR_BOUNDS.values(), size=(300, 2))
        corners = np.array([[x, y] for x in (-0.2, 0.7) for y in (1.5, 2.5)])
        found = sampled(PLANAR, certified.optimum, np.concatenate([points, corners]))
        assert min(margins(certified, found).values()) > -1e-8

    def test_is_not_vacuous(self):
        """Within one in a thousand of a formula of its own, 0.2 % for L."""
        certified = tug_of_war(4000)
        t = np.delete(np.linspace(-1, 3, 4001), 2000)
        first, second = 1 / (1 + np.exp(-t)), 1 / (1 + np.exp(2 - t))
        slope = np.sqrt(2) * 0.4 * (first * (1 - first) - second * (1 - second))
        best = 0.5 + 0.4 * (1 / (1 + np.exp(-1)) - 1 / (1 + np.exp(1)))
        gap = best - (0.5 + 0.4 * (first - second))
        distance = (1 - t) / np.sqrt(2)
        assert certified.best_objective == pytest.approx(best, rel=1e-14)
        assert certified.pl_constant == pytest.approx((slope**2 / (2 * gap)).min(), rel=1e-3)
        assert certified.concavity == pytest.approx((slope / distance).min(), rel=1e-3)
        assert certified.largest_gap == pytest.approx(gap.max(), rel=1e-3)
        assert certified.smoothness == pytest.approx(0.145372, rel=2e-3)
        np.testing.assert_allclose(certified.optimum, [0.5, 0.5], rtol=0, atol=1e-12)
        np.testing.assert_allclose(certified.curvature, [0.145372], rtol=0, atol=5e-7)
        assert certified.resolution == pytest.approx(4 / 4000 / 2 / np.sqrt(2))

    def test_is_not_vacuous_in_the_plane(self):
        certified = certify(PLANAR, cells=300, **PLANAR_BOUNDS)
        ticks = [np.linspace(*ends, 31) for ends in zip(*PLANAR_BOUNDS.values(), strict=True)]
        points = np.array([[x, y] for x in ticks[0] for y in ticks[1]])
        found = sampled(PLANAR, certified.optimum, points)
        for name in CONSTANTS:
            assert getattr(certified, name) == pytest.approx(found[name], rel=0.05), name

    def test_refines_at_first_order(self):
        """Halving the cells halves the loss: a slope of −1, within 0.15, and none lost."""
        cells = np.array([250, 500, 1000, 2000])
        runs = [tug_of_war(int(count)) for count in cells]
        finest = tug_of_war(256_000)
        for name in ("smoothness", "concavity"):
            loss = [abs(getattr(run, name) - getattr(finest, name)) for run in runs]
            slope = np.polyfit(np.log(cells), np.log(loss), 1)[0]
            assert slope == pytest.approx(-1, abs=0.15), name
        for name in CONSTANTS:
            loss = [abs(getattr(run, name) - getattr(finest, name)) for run in runs]
            assert (np.diff(loss) < 0).all(), name

    def test_cell_centres_alone_are_no_bound(self, rng):
        """Two cells, −1 to 1 to 3: without the margin Kρ their centres miss the peak between."""
        certified = tug_of_war(2)
        at_centres = certified.smoothness - certified.hessian_lipschitz * certified.resolution
        largest = max(
            np.abs(np.linalg.eigvalsh(hessian(TUG.bandit, TUG.theta(t)))).max()
            for t in rng.uniform(-1, 3, 50)
        )
        assert at_centres < 0.9 * largest
        assert largest < certified.smoothness

    def test_a_ratio_at_centres_alone_is_no_bound(self):
        """μ at the centres of ten cells is above what the corner t = −1 shows; the bound is not."""
        centres = TUG.theta(-0.8)[None] * np.ones((1, 1))
        optimum = TUG.theta(1.0)
        inner = sampled(TUG.bandit, optimum, centres, TUG.axes)["pl_constant"]
        outer = sampled(TUG.bandit, optimum, [TUG.theta(-1.0)], TUG.axes)["pl_constant"]
        assert tug_of_war(10).pl_constant < outer < 0.95 * inner

    def test_axes_of_another_length_give_the_same_set(self):
        """t′ = 3t, bounds three times as far: constants belong to θ, not to t."""
        axes = 3 * TUG.axes
        other = certify(TUG.bandit, low=-3.0, high=9.0, cells=100, axes=axes)
        for name in (*CONSTANTS, "resolution", "hessian_lipschitz", "best_objective"):
            assert getattr(other, name) == pytest.approx(getattr(tug_of_war(100), name))

    def test_tabular_bandit_along_its_one_direction(self):
        """One-hot features, two actions at two prompts: only logit differences move the policy."""
        success = np.array([[0.1, 0.9], [0.9, 0.1]])
        bandit = SoftmaxBandit(
            np.array([[[0.0], [1.0]], [[0.0], [1.0]]]),
            np.array([0.0, 1.0]),
            np.stack([1 - success, success], axis=-1),
            offsets=np.array([[0.0, 0.0], [0.0, -2.0]]),
        )
        certified = certify(bandit, low=-1.0, high=3.0, cells=1000)
        assert certified.curvature[0] == pytest.approx(0.145372 / 2, abs=5e-7)
        assert certified.optimum == pytest.approx([1.0])


def two_hills():
    """A tug of war won at t = 1, and one of a larger stake at t = 12."""
    success = np.tile([[0.1, 0.9], [0.9, 0.1]], (2, 1))
    return SoftmaxBandit(
        np.tile([[0.0], [1.0]], (4, 1, 1)),
        [0.0, 1.0],
        np.stack([1 - success, success], axis=-1),
        [0.2, 0.2, 0.3, 0.3],
        np.array([[0, 0], [0, -2], [0, -11], [0, -13]]),
    )


class TestOptimum:
    def test_of_two_hills_the_higher_and_nothing_certified(self):
        """At the lower one the gradient is 0 and the gap is not: no PL constant exists."""
        certified = certify(two_hills(), low=-1.0, high=14.0, cells=500)
        assert certified.optimum == pytest.approx([12.0], abs=0.01)
        assert certified.pl_constant == 0
        assert certified.concavity <= 0

    def test_is_stationary_to_the_last_digit(self):
        """Would catch: the optimiser's own answer, good to half of the digits."""
        gradient = PLANAR.at(certify(PLANAR, cells=50, **PLANAR_BOUNDS).optimum).gradient
        assert np.abs(gradient).max() < 1e-15

    def test_an_optimiser_gone_astray_is_noticed(self, monkeypatch):
        """Would catch: a point that is concave and inside, but not stationary."""
        stopped = SimpleNamespace(x=np.array([12.3]))
        monkeypatch.setattr("scipy.optimize.minimize", lambda *_, **__: stopped)
        with pytest.raises(ValueError, match=r"^low and high must enclose one strict maximum of J"):
            certify(two_hills(), low=-1.0, high=14.0, cells=500)


class TestTugOfWar:
    def test_two_axes_against_the_plane(self):
        """The separable constants are better than a direct grid's, which converge to them."""
        problem = TugOfWar(num_axes=2)
        separate = certify_tug_of_war(problem, cells=4000, **BOUNDS)
        coarse, fine = (tug_of_war(cells, problem) for cells in (40, 320))
        for name in CONSTANTS:
            target = getattr(separate, name)
            assert getattr(fine, name) == pytest.approx(target, rel=0.03), name
            assert abs(getattr(fine, name) - target) < abs(getattr(coarse, name) - target), name
        assert separate.best_objective == pytest.approx(fine.best_objective, rel=1e-13)
        np.testing.assert_allclose(separate.optimum, fine.optimum, rtol=0, atol=1e-12)
        np.testing.assert_allclose(separate.curvature, fine.curvature, rtol=1e-9)

    @pytest.mark.parametrize("flat", [0, 2])
    def test_one_axis_is_the_direct_certificate(self, flat):
        problem = TugOfWar(num_flat=flat)
        separate, direct = certify_tug_of_war(problem, cells=50, **BOUNDS), tug_of_war(50, problem)
        for field in dataclasses.fields(direct):
            np.testing.assert_allclose(
                getattr(separate, field.name), getattr(direct, field.name), rtol=1e-12
            )

    def test_holds_at_sampled_points_of_three_axes(self, rng):
        problem = TugOfWar(num_axes=3, num_flat=1)
        certified = certify_tug_of_war(problem, cells=400, low=[-1, 0, 0.5], high=[3, 2, 1.5])
        coordinates = rng.uniform([-1, 0, 0.5], [3, 2, 1.5], size=(200, 3))
        points = [problem.theta(t) for t in [*coordinates, [-1, 1, 1], [3, 2, 1.5]]]
        found = sampled(problem.bandit, certified.optimum, points, problem.axes)
        assert min(margins(certified, found).values()) > -1e-8

    def test_each_axis_may_have_its_own_separation(self):
        """The least μ is that of the hardest axis. Would catch: the mean of the axes."""
        problem = TugOfWar(num_axes=2, separation=(2.0, 1.0))
        both = certify_tug_of_war(problem, cells=500, **BOUNDS)
        single = [
            certify_tug_of_war(TugOfWar(separation=separation), cells=500, **BOUNDS)
            for separation in problem.separation
        ]
        assert both.pl_constant == min(part.pl_constant for part in single) / 2
        assert both.smoothness == max(part.smoothness for part in single) / 2
        np.testing.assert_allclose(problem.axes @ both.optimum, [1.0, 0.5], rtol=0, atol=1e-12)
        direct = tug_of_war(200, problem)
        assert direct.pl_constant == pytest.approx(both.pl_constant, rel=0.1)
        assert direct.largest_gap == pytest.approx(both.largest_gap, rel=2e-3)


class TestLargestError:
    @staticmethod
    def error(snapshot):
        moments = snapshot.moments
        return mse.minibatch(mse.grpo(moments, group_size=8), moments, batch_size=4)

    def test_covers_sampled_points_and_is_tight(self, rng):
        bound = largest_error(TUG.bandit, self.error, axes=TUG.axes, cells=200, **BOUNDS)
        errors = [self.error(TUG.at(TUG.theta(t))) for t in np.linspace(-1, 3, 777)]
        assert max(errors) <= bound <= 1.02 * max(errors)

    def test_is_a_maximum_and_a_margin(self):
        """J on five corners by hand. Would catch: centres of cells, which leave the ends out."""
        found = largest_error(
            TUG.bandit, lambda snapshot: -snapshot.objective, axes=TUG.axes, cells=4, **BOUNDS
        )
        objective = np.array([TUG.at(TUG.theta(t)).objective for t in range(-1, 4)])
        expected = -objective.min() + np.abs(np.diff(objective)).max()
        assert found == pytest.approx(expected)

    @pytest.mark.parametrize("direction", [[3.0, 1.0], [1.0, 3.0]])
    def test_the_margin_looks_along_every_axis(self, direction):
        """V = sigmoid(u·θ) varies most along the one axis or the other; steps of 0.5."""
        features = np.array([[[0.0, 0.0], direction]])
        bandit = SoftmaxBandit(features, [0.0, 1.0], [[[1.0, 0.0], [0.0, 1.0]]])
        found = largest_error(
            bandit, lambda snapshot: snapshot.objective, cells=4, low=-1.0, high=1.0
        )
        ticks = np.linspace(-1, 1, 5)
        table = 1 / (1 + np.exp(-np.add.outer(direction[0] * ticks, direction[1] * ticks)))
        steps = [np.abs(np.diff(table, axis=axis)).max() for axis in (0, 1)]
        assert np.argmax(steps) == np.argmax(direction)
        assert found == pytest.approx(table.max() + max(steps))


def test_no_pl_constant_where_the_supremum_is_at_infinity():
    """One right action: ‖g‖²/Δ → 0 along the ray to certainty, so Lemma 6 has no μ > 0 there."""
    bandit = SoftmaxBandit.tabular([0.0, 1.0], [[[1.0, 0.0], [0.0, 1.0]]])
    ratios = []
    for logit in (0.0, 5.0, 10.0, 20.0):
        here = bandit.at([0.0, logit])
        ratios.append(here.gradient @ here.gradient / (2 * here.action_probs[0, 0]))
    gap = bandit.at([0.0, 20.0]).action_probs[0, 0]
    assert (np.diff(ratios) < 0).all()
    assert ratios[-1] == pytest.approx(gap, rel=1e-6)  # ‖g‖² = 2(pq)², Δ = q
    with pytest.raises(ValueError, match=r"^low and high must enclose one strict maximum"):
        certify(bandit, low=-20.0, high=20.0, cells=100, axes=[[-1.0, 1.0]])


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"low": 3.0}, "low must be below high, got low=3.0 and high=3.0"),
            ({"low": np.nan}, "low must be finite, got 1 NaN or infinity"),
            ({"cells": 0}, "cells must be an integer of at least 1, got 0"),
            ({"cells": 2.0}, "cells must be an integer of at least 1, got 2.0"),
            ({"axes": [[1.0, 1.0, 0.0]]},
             "axes must be at most 3 nonzero rows of length 2, got 1 of 3"),
            ({"axes": [[1.0, 1.0], [0.0, 0.0]]},
             "axes must be at most 3 nonzero rows of length 2, got 2 of 2"),
            ({"axes": [[1.0, 0.0]]}, "axes must span all that moves the policy, got 1 outside"),
        ],
    )  # fmt: skip
    def test_arguments(self, change, message):
        arguments = {"axes": TUG.axes, "cells": 10, **BOUNDS} | change
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            certify(TUG.bandit, **arguments)
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            largest_error(TUG.bandit, lambda snapshot: snapshot.objective, **arguments)

    def test_axes_are_orthogonal(self):
        with pytest.raises(ValueError, match=r"^axes must have orthogonal rows"):
            certify(PLANAR, cells=5, axes=[[1.0, 0.0], [1.0, 1.0]], **PLANAR_BOUNDS)

    def test_a_grid_has_three_axes_at_most(self):
        problem = TugOfWar(num_axes=4, num_flat=0)
        message = "axes must be at most 3 nonzero rows of length 4, got 4 of 4"
        for axes in (problem.axes, None):
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                certify(problem.bandit, cells=2, axes=axes, **BOUNDS)
        assert certify_tug_of_war(problem, cells=2, **BOUNDS).smoothness > 0

    @pytest.mark.parametrize("cells", [1, 2, 50])
    @pytest.mark.parametrize(("low", "high"), [(2.0, 3.0), (-3.0, 0.5), (-1.0, 1.0)])
    def test_the_optimum_is_inside(self, low, high, cells):
        message = "low and high must enclose one strict maximum of J"
        with pytest.raises(ValueError, match=f"^{message}, got the best cell at t = "):
            tug_of_war(cells, low=low, high=high)

    def test_a_flat_direction_among_the_axes_has_no_strict_maximum(self):
        with pytest.raises(ValueError, match=r"^low and high must enclose one strict maximum"):
            certify(TUG.bandit, cells=20, **BOUNDS)
