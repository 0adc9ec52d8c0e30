"""Options that apps share."""

from __future__ import annotations

import pytest

from experiments.running.options import sizes_of_budget


class TestDivisors:
    @pytest.mark.parametrize("budget", [4, 36, 60, 97 * 97, 1024])
    def test_against_trying_every_size(self, budget):
        """Would catch: the root of a square listed twice, or the budget itself."""
        assert sizes_of_budget(budget) == [size for size in range(2, budget) if budget % size == 0]

    def test_a_large_budget_takes_no_time(self):
        """Would catch: every number up to half of the budget tried, hours of them."""
        assert sizes_of_budget(2**40) == [2**power for power in range(1, 40)]

    @pytest.mark.parametrize(("budget", "why"), [(97, "have a divisor"), (2**70, "be at most")])
    def test_refused(self, budget, why):
        with pytest.raises(ValueError, match=f"^budget must {why}"):
            sizes_of_budget(budget)
