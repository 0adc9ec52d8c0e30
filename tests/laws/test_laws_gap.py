"""Bounds on the gap: against the step they iterate, quadratics that attain it, the paper's form."""

import re
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ustat_grpo.laws import gap

unit = st.floats(min_value=1e-3, max_value=1.0)
positive = st.floats(min_value=1e-2, max_value=1e2)
CONSTANTS = {"smoothness": 0.2, "pl_constant": 0.05, "noise": 0.3}


def quadratic_gaps(rates, *, curvature, initial_gap, noise):
    """E Δ_n of J = −λθ²/2 under gradient noise of variance M, by the second moment of θ: exact."""
    second, gaps = 2 * initial_gap / curvature, []
    for rate in rates:
        second = (1 - curvature * rate) ** 2 * second + rate**2 * noise
        gaps.append(curvature * second / 2)
    return np.array(gaps)


def printed(steps, *, largest_gap, smoothness, pl_constant, noise, rate, slack):
    """Lemma 6 (b) as printed, at one ε."""
    excess = 2 * pl_constant * rate - 1
    start = np.ceil(pl_constant * smoothness * rate**2 * (1 + slack) / (slack * excess)) + 1
    noisy = (1 + slack) * smoothness * rate**2 * noise / (4 * pl_constant * rate - 2)
    return np.maximum(noisy, largest_gap * start) / steps


class TestRecursiveBound:
    @given(positive, positive, positive, st.lists(st.floats(0.01, 4.0), min_size=1, max_size=20))
    def test_a_quadratic_attains_it(self, curvature, initial_gap, noise, steps):
        """Also at rates above 2/L, where the factor is another. Would catch: Lη²M without the ½."""
        rates = np.array(steps) / curvature
        bounds = gap.recursive_bound(
            rates,
            initial_gap=initial_gap,
            smoothness=curvature,
            pl_constant=curvature,
            noise=noise,
        )
        exact = quadratic_gaps(rates, curvature=curvature, initial_gap=initial_gap, noise=noise)
        np.testing.assert_allclose(bounds, exact, rtol=1e-9)

    def test_above_two_over_l_the_factor_of_the_lemma_is_too_small(self):
        """A direction of curvature L and one of μ: all the gap in the first grows by (1 − Lη)²."""
        smoothness, pl_constant, rate = 1.0, 0.1, 3.0
        exact = quadratic_gaps([rate], curvature=smoothness, initial_gap=1.0, noise=0.0)
        mutant = 1 - 2 * pl_constant * rate + smoothness * pl_constant * rate**2
        assert mutant < exact[0]
        bound = gap.recursive_bound(
            [rate], initial_gap=1.0, smoothness=smoothness, pl_constant=pl_constant, noise=0.0
        )
        assert bound[0] == pytest.approx(exact[0])

    @given(unit, positive, st.floats(0.01, 3.0))
    def test_covers_every_quadratic_between(self, ratio, initial_gap, scaled_rate):
        """Curvatures μ ≤ λ ≤ L, all the gap and noise in one direction. Would catch: μ for L."""
        rates = scaled_rate * 10 / (np.arange(30) + 10.0)
        bounds = gap.recursive_bound(
            rates, initial_gap=initial_gap, smoothness=1.0, pl_constant=ratio, noise=0.5
        )
        for curvature in np.linspace(ratio, 1, 5):
            exact = quadratic_gaps(rates, curvature=curvature, initial_gap=initial_gap, noise=0.5)
            assert (exact <= bounds * (1 + 1e-12)).all()

    def test_largest_gap_caps_every_step(self):
        bounds = gap.recursive_bound([30.0, 1.0], initial_gap=1.0, largest_gap=1.5, **CONSTANTS)
        assert bounds[0] == 1.5
        assert bounds[1] == pytest.approx((1 - 0.1 + 0.01) * 1.5 + 0.03)

    def test_long_runs_are_fast(self):
        rates = 10 / (np.arange(100_000) + 20.0)
        assert gap.recursive_bound(rates, initial_gap=1.0, **CONSTANTS)[-1] < 1e-2


class TestConstantRate:
    @given(unit, positive, positive, st.floats(min_value=0.01, max_value=0.49))
    def test_is_the_recursion_with_its_noise_summed_to_infinity(
        self, ratio, initial_gap, noise, scaled_rate
    ):
        smoothness = 3.0
        constants = {"smoothness": smoothness, "pl_constant": ratio * smoothness, "noise": noise}
        rate = scaled_rate / smoothness
        steps = np.arange(1, 40)
        bounds = gap.constant_rate_bound(steps, initial_gap=initial_gap, rate=rate, **constants)
        recursion = gap.recursive_bound(np.full(39, rate), initial_gap=initial_gap, **constants)
        factor = 1 - 2 * ratio * smoothness * rate + smoothness**2 * ratio * rate**2
        rest = smoothness * rate**2 * noise / 2 * factor**steps / (1 - factor)
        np.testing.assert_allclose(bounds, recursion + rest, rtol=1e-9)

    @pytest.mark.parametrize("scaled_rate", [0.5, 1.0, 1.99])
    def test_holds_up_to_two_over_l(self, scaled_rate):
        """The condition β < 1/(2L) is not needed: a quadratic with μ = L shows it at the limit."""
        rate = scaled_rate / 0.2
        with pytest.warns(UserWarning, match=r"^rate must be below 1/\(2L\) = 2.5 for Lemma 6"):
            bound = gap.constant_rate_bound(
                [1, 10, 3000],
                initial_gap=1.0,
                smoothness=0.2,
                pl_constant=0.2,
                noise=0.3,
                rate=rate,
            )
        exact = quadratic_gaps(np.full(3000, rate), curvature=0.2, initial_gap=1.0, noise=0.3)
        assert (bound >= exact[[0, 9, 2999]] * (1 - 1e-12)).all()
        assert bound[2] == pytest.approx(exact[2999])

    @pytest.mark.parametrize("rate", [10.0, 20.0])
    def test_is_infinite_from_there_on(self, rate):
        with pytest.warns(UserWarning, match=f"got {rate!r}$"):
            bound = gap.constant_rate_bound([0, 5], initial_gap=1.0, rate=rate, **CONSTANTS)
        np.testing.assert_array_equal(bound, np.inf)

    def test_no_warning_inside(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            bound = gap.constant_rate_bound(7, initial_gap=1.0, rate=2.499, **CONSTANTS)
        assert bound.shape == ()


class TestDecayingRate:
    @given(unit, positive, positive, st.floats(min_value=1.01, max_value=20.0))
    def test_is_the_printed_bound_at_the_best_slack(self, ratio, largest_gap, noise, excess):
        """Would catch: a rounded root that misses the better neighbour."""
        constants = {
            "largest_gap": largest_gap,
            "smoothness": 2.0,
            "pl_constant": 2 * ratio,
            "noise": noise,
            "rate": excess / (4 * ratio),
        }
        bound = gap.decaying_rate_bound(1, **constants)
        slacks = np.logspace(-6, 6, 20_001)
        grid = printed(1, slack=slacks, **constants)
        assert (bound <= grid * (1 + 1e-9)).all()
        assert grid.min() <= bound * 1.01

    @given(unit, positive, positive, st.floats(min_value=1.01, max_value=20.0))
    def test_covers_the_recursion(self, ratio, largest_gap, noise, excess):
        """The constants of the lemma are right: the worst start, every n up to a thousand."""
        constants = {
            "largest_gap": largest_gap,
            "smoothness": 2.0,
            "pl_constant": 2 * ratio,
            "noise": noise,
        }
        rate = excess / (4 * ratio)
        steps = np.arange(1, 1001)
        recursion = gap.recursive_bound(rate / steps, initial_gap=largest_gap, **constants)
        closed = gap.decaying_rate_bound(steps, rate=rate, **constants)
        assert (recursion <= closed * (1 + 1e-9)).all()

    def test_a_smaller_constant_would_be_wrong(self):
        """n times the recursion tends to Lβ²M/(4μβ−2): 4μβ−1 is refuted, and c = a alone too."""
        rate, steps = 20.0, np.arange(1, 200_001)
        constants = {**CONSTANTS, "largest_gap": 5.0}
        recursion = gap.recursive_bound(rate / steps, initial_gap=5.0, **constants)
        limit = 0.2 * rate**2 * 0.3 / (4 * 0.05 * rate - 2)
        assert steps[-1] * recursion[-1] == pytest.approx(limit, rel=2e-3)
        assert steps[-1] * recursion[-1] > 0.2 * rate**2 * 0.3 / (4 * 0.05 * rate - 1)
        assert (recursion > 5.0 / steps).any()

    @given(positive)
    def test_without_noise(self, largest_gap):
        """Then c = a·n₀ with the least n₀ of all, ⌊q⌋ + 2, q = μLβ²/(2μβ−1)."""
        constants = {"smoothness": 0.2, "pl_constant": 0.05, "noise": 0.0, "rate": 20.0}
        bound = gap.decaying_rate_bound([1, 8], largest_gap=largest_gap, **constants)
        np.testing.assert_allclose(bound, [6 * largest_gap, 6 * largest_gap / 8])

    @pytest.mark.parametrize("rate", [10.0, 2.5])
    def test_small_rates_have_no_bound(self, rate):
        message = f"rate must be above 1/(2μ) = 10 for Lemma 6, got {rate!r}"
        with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
            bound = gap.decaying_rate_bound([1, 5], largest_gap=1.0, rate=rate, **CONSTANTS)
        np.testing.assert_array_equal(bound, np.inf)

    def test_small_rates_do_converge_slower(self):
        """The recursion still falls, like n^(−2μβ), here n^(−½)."""
        steps = np.arange(1, 100_001)
        bounds = gap.recursive_bound(5.0 / steps, initial_gap=1.0, **CONSTANTS)
        slope = np.log(bounds[-1] / bounds[999]) / np.log(100)
        assert slope == pytest.approx(-0.5, abs=0.02)


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"smoothness": 0.0}, "smoothness must be a finite number and above 0, got 0.0"),
            ({"pl_constant": -1.0}, "pl_constant must be a finite number and above 0, got -1.0"),
            ({"pl_constant": 0.3}, "pl_constant must be at most smoothness = 0.2, got 0.3"),
            ({"noise": -0.1}, "noise must not be negative, got -0.1"),
            ({"noise": np.nan}, "noise must be a finite number, got nan"),
            ({"rate": 0.0}, "rate must be a finite number and above 0, got 0.0"),
        ],
    )
    def test_constants(self, change, message):
        arguments = CONSTANTS | {"rate": 1.0} | change
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            gap.constant_rate_bound(1, initial_gap=1.0, **arguments)
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            gap.decaying_rate_bound(1, largest_gap=1.0, **arguments)
        if "rate" not in change:
            arguments = CONSTANTS | change
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                gap.recursive_bound([1.0], initial_gap=1.0, **arguments)

    @pytest.mark.parametrize("steps", [-1, 1.5, [3, np.nan], [np.inf]])
    def test_iterations(self, steps):
        message = f"iterations must be integers of at least 0, got {steps!r}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            gap.constant_rate_bound(steps, initial_gap=1.0, rate=1.0, **CONSTANTS)

    def test_the_decaying_bound_begins_at_one(self):
        with pytest.raises(ValueError, match=r"^iterations must be integers of at least 1, got 0$"):
            gap.decaying_rate_bound(0, largest_gap=1.0, rate=20.0, **CONSTANTS)

    def test_gaps_and_rates(self):
        with pytest.raises(ValueError, match=r"^initial_gap must not be negative, got -1.0$"):
            gap.recursive_bound([1.0], initial_gap=-1.0, **CONSTANTS)
        with pytest.raises(ValueError, match=r"^rates must be positive, got a smallest rate of 0$"):
            gap.recursive_bound([1.0, 0.0], initial_gap=1.0, **CONSTANTS)
        message = "largest_gap must be at least initial_gap = 1.0, got 0.5"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            gap.recursive_bound([1.0], initial_gap=1.0, largest_gap=0.5, **CONSTANTS)
        with pytest.raises(ValueError, match=r"^largest_gap must be a finite .*, got 0.0$"):
            gap.decaying_rate_bound(1, largest_gap=0.0, rate=20.0, **CONSTANTS)

    def test_the_decaying_bound_of_numbers_of_any_size(self):
        """Would catch: NaN where 2a is no double, and an OverflowError of β²."""
        with np.errstate(all="raise"):
            bounds = gap.decaying_rate_bound([1, 10], largest_gap=1e308, rate=20.0, **CONSTANTS)
            tiny = CONSTANTS | {"noise": CONSTANTS["noise"] * 2.0**-900}
            small = gap.decaying_rate_bound([1, 10], largest_gap=2.0**-900, rate=20.0, **tiny)
        usual = gap.decaying_rate_bound([1, 10], largest_gap=1.0, rate=20.0, **CONSTANTS)
        np.testing.assert_array_equal(small, usual * 2.0**-900)
        large = gap.decaying_rate_bound([10], largest_gap=1e300, rate=20.0, **CONSTANTS)
        assert bounds[0] == np.inf and bounds[1] == pytest.approx(1e8 * large[0], rel=1e-12)
        for wrong in ({"rate": 1e200}, {"rate": 20.0, "noise": 1e305}):
            message = r"^largest_gap, smoothness, pl_constant, noise and rate must be of a size at "
            with pytest.raises(ValueError, match=message):
                gap.decaying_rate_bound(1, largest_gap=1e-300, **CONSTANTS | wrong)
