"""The numbers in the scoreboard's sentences, each quoted from a claim or from a reading.

A quotation that finds nothing raises: a reading that was reworded leaves no stale number behind.
"""

import re
from collections.abc import Iterable

from experiments.ledger.claims_table import number
from experiments.ledger.evidence import REFUTED, REPRODUCED, Evidence, kind
from experiments.running.reading import Reading


def numbers(evidence: Evidence) -> dict[str, str]:
    """Return all numbers by name, as text."""
    return {
        **{name: chapter.holding for name, chapter in evidence.chapters.items()},
        **_of_claims(evidence),
        **_of_errors(evidence),
        **_of_gaps(evidence),
        **_of_group_sizes(evidence),
        **_of_practice(evidence),
        **_beyond(evidence),
    }


def _quote(pattern: str, reading: Reading) -> str:
    """Return the one place of a reading's text that a pattern captures.

    Raises:
        ValueError: if there is no such place, or another that differs.
    """
    found = set(re.findall(pattern, reading.obtained)) | set(re.findall(pattern, reading.claim))
    if len(found) != 1:
        raise ValueError(f"{reading.claim!r} must hold {pattern!r} once, got {sorted(found)}")
    return found.pop()


def _all(evidence: Evidence, key: str, containing: str = "") -> list[Reading]:
    """Return the readings of a group whose question contains some words.

    Raises:
        ValueError: if there is none.
    """
    found = [each for each in evidence.groups[key].readings if containing in each.claim]
    if not found:
        raise ValueError(f"{key} must have a reading on {containing!r}, got none")
    return found


def _one(evidence: Evidence, key: str, containing: str = "") -> Reading:
    found = _all(evidence, key, containing)
    if len(found) != 1:
        raise ValueError(f"{key} must have one reading on {containing!r}, got {len(found)}")
    return found[0]


def _ends(shown: Iterable[str]) -> tuple[str, str]:
    """Return the smallest and the largest of some numbers, as they are written."""
    ordered = sorted(shown, key=lambda text: float(text.rstrip("%")))
    return ordered[0], ordered[-1]


def _share(readings: list[Reading], wanted: str) -> str:
    """Count the readings of a kind."""
    return f"{sum(kind(each.verdict) == wanted for each in readings)} of {len(readings)}"


def _obtained(evidence: Evidence, chapter: str, statement: str) -> str:
    (claim,) = [c for c in evidence.chapters[chapter].claims if c.statement == statement]
    return number(claim, claim.obtained)


def _of_claims(evidence: Evidence) -> dict[str, str]:
    excess = "GRPO's error exceeds the oracle's by κ/(G−1), a share"
    shares = {
        size: f"{100 * float(_obtained(evidence, 'oracle_property', f'G = {size}: {excess}')):.0f}"
        for size in (8, 32)
    }
    weights = evidence.chapters["baseline_weights"].headline  # what is wrong, and the truth
    slope = evidence.chapters["normalised_u_statistic"].headline
    overtaken = evidence.chapters["vanilla_crossover"].headline
    return {
        "share_8": f"{shares[8]} %",
        "share_32": f"{shares[32]} %",
        "crossover": f"{float(number(overtaken, overtaken.obtained)):.0f}",
        "oracle_weight": f"{weights.expected:.4f}",
        "vanilla_weight": f"{weights.obtained:.4f}",
        "normalised_slope": f"{slope.obtained:.2f}".replace("-", "−"),
    }


def _of_errors(evidence: Evidence) -> dict[str, str]:
    agrees = _one(evidence, "agreement", "the exact laws give")
    order = _all(evidence, "errors", "vanilla > GRPO > oracle")
    close = _all(evidence, "errors", "GRPO close to the oracle")
    falls = _one(evidence, "errors", "arithmetic: the error falls")
    never = [_quote(r"never on (\d+%)", each) for each in _all(evidence, "hard_prompts")]
    low, high = _ends(never)
    return {
        "error_points": _quote(r"\((\d+) points\)", agrees),
        "error_z": _quote(r"largest \|z\| (\S+),", agrees),
        "never_low": low,
        "never_high": high,
        "order_fails": _share(order, REFUTED),
        "vanilla_best": _quote(
            r"below the oracle in (\d+ of \d+)",
            _one(evidence, "errors", "arithmetic: vanilla > GRPO"),
        ),
        "close_32": _ends(_quote(r"(\S+) ± \S+ at G = 32", each) for each in close)[1],
        "falls_size": _quote(r"with G: (\w+)", falls),
        "falls_skill": _quote(r"with skill: (\w+)", falls),
    }


def _of_gaps(evidence: Evidence) -> dict[str, str]:
    law = _one(evidence, "gap_law")
    ratios = [_quote(r"bound is (\S+) times the gap", each) for each in _all(evidence, "gap_bound")]
    low, high = _ends(ratios)
    limit = _one(evidence, "limit_law", "tug of war: t")
    return {
        "gap_points": _quote(r"\((\d+) points\)", law),
        "gap_budget": _quote(r"N = (\d+):[^;]*$", law),
        "gap_off": _quote(r"median deviation (\S+), [^;]*$", law),
        "bound_low": low,
        "bound_high": high,
        "limit_mean": _quote(r"grpo: (\S+ ± \S+) \(", limit),
        "limit_law": _quote(r"grpo: [^(]*\(law (\S+)\)", limit),
        "limit_factor": _quote(r"off by a factor of (\d+)", limit),
    }


def _of_group_sizes(evidence: Evidence) -> dict[str, str]:
    steady = _one(evidence, "language", "universality in n")
    sets = [set(each.split(", ")) for each in re.findall(r": ([^;:]+)(?:;|$)", steady.obtained)]
    common = sorted(set.intersection(*sets) - {"none"}, key=int)
    path = _one(evidence, "language", "can be estimated")
    seeds = _one(evidence, "language", "five seeds")
    moved = [_quote(r"epochs: (\d+) ", each) for each in _all(evidence, "finite_prompts")]
    return {
        "best_divisors": _quote(r"^(\d+ of \d+);", _one(evidence, "fixed_budget", "best divisor")),
        "language_best": ", ".join(common) or "none",
        "language_optimal": _quote(r"^(\S+) at the start", path),
        "few_seeds": _quote(r"in (\d+ of \d+)", seeds),
        "every_iteration": _share(_all(evidence, "every_iteration"), REPRODUCED),
        "every_budget": _share(_all(evidence, "every_budget"), REPRODUCED),
        "epochs_best": _ends(moved)[1],
    }


def _of_practice(evidence: Evidence) -> dict[str, str]:
    bias = _one(evidence, "practical_bias", "grows like m²η²")
    normalised = _one(evidence, "normalised_runs")
    within = r"within (\S+) std\. errors"
    return {
        "bias_rate": _quote(r"slope in η (\S+ … \S+),", bias).replace(" … ", " to "),
        "bias_batches": _quote(r"in m − 1 (\S+ … \S+);", bias).replace(" … ", " to "),
        "plain_z": _quote(within, _one(evidence, "plain_runs")),
        "penalty_off": _quote(r"at least (\S+) from where", _one(evidence, "penalised_runs")),
        "runs_z": _quote(within, normalised),
        "runs_limit": _quote(r"and (\S+) from the limit's", normalised),
    }


def _beyond(evidence: Evidence) -> dict[str, str]:
    rules, plans = _one(evidence, "rules"), _one(evidence, "plans", "all tasks")
    remax = _one(evidence, "zoo", "the greedy output is a better baseline")
    memory = _one(evidence, "critic", "of the peak memory")
    learned = _one(evidence, "critic", "learns no faster")
    lake = _one(evidence, "episode_errors", "frozenlake: the exact laws")
    covers = [_quote(r"B = 512: (\S+%)", e) for e in _all(evidence, "coverage", "intervals of c₁")]
    return {
        "rule_law": _quote(r"law \(gap\): (\S+) ±", rules),
        "rule_paper": _quote(r"; paper: (\S+) ±", rules),
        "rule_8": _quote(r"flat: 8: (\S+) ±", rules),
        "rule_32": _quote(r"flat: 32: (\S+) ±", rules),
        "dynamic": _quote(
            r"ratio of errors (\S+…\S+) in", _one(evidence, "zoo", "dynamic sampling is less")
        ).replace("…", " to "),
        "remax": _ends(re.findall(r": ([\d.]+)…", remax.obtained))[0],
        "critic_memory": _quote(r"adamw: .*GRPO takes (\S+) less", memory),
        "critic_share": _quote(r"adamw: weights and moments of the network are (\S+) of", memory),
        "critic_gain": _quote(r"best GRPO by (\S+ ± \S+)", learned),
        "lake_z": _quote(r"largest \|z\| (\S+),", lake),
        "lake_optimal": re.findall(
            r"G\* = ([\d.]+);", _all(evidence, "episodes", "frozenlake")[0].expected
        )[0],
        "cover_low": _ends(covers)[0],
        **{f"plan_{size}": _quote(rf"fixed {size} by (\S+ ± \S+?)(?:,| \()", plans)
           for size in (8, 16, 64)},
    }  # fmt: skip
