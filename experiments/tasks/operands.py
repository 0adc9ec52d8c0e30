"""The numbers of arithmetic questions, as configurations give their ranges."""

from dataclasses import asdict, dataclass, field

from ustat_grpo.arithmetic.problems import OperandRanges


@dataclass
class Ranges:
    """From where the numbers of problems are drawn; see `ustat_grpo.lm.OperandRanges`."""

    sums: list[int] = field(default_factory=lambda: [1, 20])
    factors: list[int] = field(default_factory=lambda: [2, 99])
    multipliers: list[int] | None = field(default_factory=lambda: [2, 9])
    divisors: list[int] = field(default_factory=lambda: [2, 9])
    quotients: list[int] = field(default_factory=lambda: [2, 99])

    def build(self) -> OperandRanges:
        """Return the ranges of the library."""
        given = {name: pair and tuple(pair) for name, pair in asdict(self).items()}
        return OperandRanges(**given)
