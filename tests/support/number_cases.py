"""Right arguments of every public function of the laws, the planner and the noise.

Arguments that are numbers or arrays of them are what `test_numbers_refused.py` spoils, one by one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from support.noise_cases import random_scores
from support.problems import random_problem
from ustat_grpo import NoiseComponents
from ustat_grpo.bandits import expand
from ustat_grpo.laws import (
    WeightedChiSquared,
    binary,
    covariance,
    critic,
    epochs,
    gap,
    group_size,
    limit,
    mse,
    path,
    spread,
)
from ustat_grpo.noise import (
    NoiseEstimate,
    OutputSample,
    SignProbes,
    SignSample,
    estimate_noise,
    sign_probes,
)
from ustat_grpo.planner import (
    Choice,
    Cost,
    PromptValues,
    plan,
    prompt_values,
    seeds_needed,
    seeds_to_see,
)

_RNG = np.random.default_rng(5)
_BANDIT, _THETA = random_problem(_RNG, dimension=2)
_BANDIT = dataclasses.replace(_BANDIT, prompt_probs=None)
_EXPAND = expand(_BANDIT.at)
_HERE = _BANDIT.at(_THETA)
_MOMENTS, _SCORES = _HERE.moments, _EXPAND(_THETA).score_moments
_OUTCOME, _SQUARES = _MOMENTS.outcome, _MOMENTS.gradient_norm_squared
_GRAM = _HERE.prompt_gradients @ _HERE.prompt_gradients.T
_NOISE = NoiseComponents(1.0, 2.0, 8.0)
_V = _MOMENTS.value
_GRPO = binary.grpo(4)
_HESSIAN, _COVARIANCE = -np.diag([2.0, 1.0]), np.array([[2.0, 0.5], [0.5, 1.0]])
_LEMMA = {"smoothness": 2.0, "pl_constant": 1.0, "noise": 1.0}
_WEIGHTED = WeightedChiSquared(np.array([1.0, 2.0]))
_SIZES = {"batch_size": 2, "group_size": 4}

_LISTS = random_scores(_RNG, [4] * 8)
_SAMPLE = OutputSample.from_scores(*_LISTS)
_CONTRIBUTIONS = _RNG.normal(1.0, 0.1, size=(8, 3))
_IDS = np.repeat(np.arange(8.0), 4)
_PROBES = sign_probes(_SAMPLE.rewards, _IDS, rng=np.random.default_rng(1))
_VALUES = prompt_values((_SAMPLE.rewards > 5) * 1.0, _IDS)


class Case(NamedTuple):
    """A call that succeeds.

    Args:
        call: the function, a constructor, or a method of an object.
        arguments: all that it takes, by name.
        spared: numbers that may be NaN, since the answer is NaN there.
        unbounded: numbers that may be infinite.
    """

    call: Callable[..., Any]
    arguments: dict[str, Any]
    spared: tuple[str, ...] = ()
    unbounded: tuple[str, ...] = ()


def _case(
    call: Callable[..., Any], spared: str = "", unbounded: str = "", /, **arguments: Any
) -> Case:
    return Case(call, arguments, tuple(spared.split()), tuple(unbounded.split()))


_ROUTE = {"theta0": _THETA, "rates": np.array([0.1, 0.2])}
_COMPONENTS = {
    "hessian": _HESSIAN, "prompt": _COVARIANCE, "oracle": _COVARIANCE, "residual": _COVARIANCE
}  # fmt: skip
_OF_GROUP = {"advantages": _GRPO, "outcome": _OUTCOME, "gradient_norm_squared": _SQUARES}
_OF_BATCH = {"advantages": _GRPO, "moments": _MOMENTS, "gram": _GRAM, "num_groups": 2}
_CHANCE = np.array([0.2, 0.7])
_FOR_PROBLEM = {"moments": _MOMENTS, "group_size": 4}

LAWS = [
    _case(_WEIGHTED.cdf, "x", "x", x=_CHANCE),
    _case(_WEIGHTED.sf, "x", "x", x=_CHANCE),
    _case(_WEIGHTED.pdf, "x", "x", x=_CHANCE),
    _case(_WEIGHTED.ppf, q=_CHANCE),
    _case(_WEIGHTED.rvs, size=3, rng=np.random.default_rng(1)),
    _case(WeightedChiSquared, weights=_CHANCE),
    _case(covariance.minibatch_weights, "", "group_size", **_SIZES),
    _case(covariance.grpo(_SCORES).minibatch, "", "group_size", **_SIZES),
    *[
        _case(each, moments=_SCORES)
        for each in (
            covariance.oracle, covariance.vanilla, covariance.optimal_baseline, covariance.grpo
        )
    ],
    _case(covariance.constant_baseline, moments=_SCORES, baseline=0.3),
    _case(covariance.shrinkage, moments=_SCORES, weight=0.3, target=0.2),
    _case(critic.excess, moments=_MOMENTS, prediction=_V),
    _case(critic.break_even_error, **_FOR_PROBLEM),
    _case(critic.break_even_group_size, moments=_MOMENTS, prediction=_V),
    _case(critic.tolerable_excess, noise=_NOISE, group_size=4),
    _case(epochs.prompt_effect, expand=_EXPAND, **_ROUTE, checkpoints=[1, 2], batch_size=2),
    _case(gap.constant_rate_bound, iterations=[1, 2], initial_gap=1.0, rate=0.1, **_LEMMA),
    _case(gap.decaying_rate_bound, iterations=[1, 2], largest_gap=1.0, rate=1.0, **_LEMMA),
    _case(
        gap.recursive_bound, "", "largest_gap",
        rates=_CHANCE, initial_gap=1.0, largest_gap=2.0, **_LEMMA,
    ),
    _case(group_size.error_at_budget, noise=_NOISE, group_size=4.0, budget=8.0),
    _case(group_size.optimal, noise=_NOISE),
    _case(group_size.near_optimal, noise=_NOISE, tolerance=0.05),
    _case(group_size.best_divisor, noise=_NOISE, budget=8),
    _case(group_size.divisors, budget=8),
    _case(group_size.cost_aware, noise=_NOISE, cost_per_prompt=1.0, cost_per_output=1.0),
    _case(group_size.vanilla_crossover, moments=_MOMENTS),
    _case(group_size.vanilla_crossover_minibatch, moments=_MOMENTS),
    _case(limit.identifiable, hessian=_HESSIAN, tolerance=1e-9),
    _case(limit.decaying_covariance, hessian=_HESSIAN, noise=_COVARIANCE, rate=2.0),
    _case(limit.stationary_covariance, hessian=_HESSIAN, noise=_COVARIANCE, rate=0.1),
    _case(limit.weights, hessian=_HESSIAN, covariance=_COVARIANCE),
    _case(limit.mean_gap, hessian=_HESSIAN, covariance=_COVARIANCE),
    _case(limit.decaying_gap_components, **_COMPONENTS, rate=2.0),
    _case(limit.stationary_gap_components, **_COMPONENTS, rate=0.1),
    *[
        _case(each, **_FOR_PROBLEM)
        for each in (mse.oracle, mse.vanilla, mse.optimal_baseline, mse.grpo, mse.group_mean)
    ],
    _case(mse.constant_baseline, **_FOR_PROBLEM, baseline=0.3),
    _case(mse.shrinkage, **_FOR_PROBLEM, weight=0.3, target=_V),
    _case(mse.critic, **_FOR_PROBLEM, mean_error=0.0 * _V, mean_square_error=_V**2),
    _case(mse.greedy_baseline, **_FOR_PROBLEM, mean=_V, variance=_V**2),
    _case(mse.group_mean_gain, group_size=4),
    _case(mse.minibatch, errors=_V, moments=_MOMENTS, batch_size=2, gain=1.0),
    _case(
        path.ExpectedGap(1, 0.1, 0.2, 0.3, 0.4).gap, "", "group_size",
        batch_size=2.0, group_size=4.0, prompt_factor=0.5,
    ),
    _case(path.without_replacement, num_prompts=4, batch_size=2),
    _case(
        path.expected_gap,
        expand=_EXPAND, noise=covariance.grpo, **_ROUTE, checkpoints=[1, 2], best_objective=1.0,
    ),
    _case(spread.second_order, expand=_EXPAND, noise=covariance.grpo, **_ROUTE, **_SIZES),
]  # fmt: skip

BINARY = [
    _case(binary.GroupAdvantages, success=np.ones(5), failure=np.zeros(5)),
    *[
        _case(each, group_size=4)
        for each in (binary.vanilla, binary.grpo, binary.group_mean, binary.sign)
    ],
    _case(binary.baseline, group_size=4, level=_V),
    _case(binary.shrinkage, group_size=4, weight=0.3, target=_V),
    *[
        _case(each, group_size=4, eps=0.1, ddof=1)
        for each in (binary.std_normalised, binary.leave_one_out_normalised, binary.best_of_group)
    ],
    _case(binary.pass_at_k, group_size=4, k=2),
    _case(binary.drop_equal_groups, advantages=_GRPO),
    _case(binary.minibatch_law, **_OF_BATCH),
    _case(binary.dynamic_sampling, **_OF_BATCH),
    _case(binary.outcome_moments, moments=_MOMENTS),
    _case(binary.gain, advantages=_GRPO, success_probability=_CHANCE),
    _case(binary.implied_objective, advantages=_GRPO, success_probability=_CHANCE),
    *[
        _case(each, **_OF_GROUP)
        for each in (
            binary.second_moment, binary.variance, binary.mse, binary.scale_free_error,
            binary.effective_sample_size,
        )
    ],
    _case(binary.limiting_gain, success_probability=_CHANCE),
    _case(binary.limiting_objective, success_probability=_CHANCE),
    _case(binary.dead_group_probability, success_probability=_CHANCE, group_size=4),
]  # fmt: skip

PLANNER = [
    _case(Cost, per_prompt=1.0, per_output=1.0),
    _case(Cost().of_prompt, group_size=np.array([2.0, 3.0])),
    _case(PromptValues.of, sample=_SAMPLE),
    _case(_VALUES.is_extrapolated, group_size=2),
    _case(_VALUES.dead_group_probability, group_size=2),
    _case(
        plan, noise=_NOISE, budget=64, cost=Cost(), prompts=None, min_batch_size=2,
    ),
    _case(plan(_NOISE, budget=64).unspent, choice=Choice(2, 4)),
    _case(prompt_values, rewards=_SAMPLE.rewards, prompts=_IDS, score_norms=_SAMPLE.score_norms),
    _case(seeds_needed, difference=1.0, spread=1.0, level=0.05, power=0.8),
    _case(seeds_to_see, first_error=1.0, second_error=2.0, directions=1),
]  # fmt: skip

NOISE = [
    _case(NoiseEstimate, contributions=_CONTRIBUTIONS, level=0.95, doubts=()),
    _case(NoiseEstimate(_CONTRIBUTIONS, 0.95).components, "", "optimal", optimal=3.0),
    _case(
        OutputSample,
        rewards=_SAMPLE.rewards, score_norms=_SAMPLE.score_norms, prompts=_IDS,
        gradient_norms=_SAMPLE.gradient_norms, gradient_products=_SAMPLE.gradient_products,
        batches=np.repeat(np.arange(4.0), 2),
    ),
    _case(_SAMPLE.possible),
    _case(OutputSample.joined, samples=[_SAMPLE]),
    _case(OutputSample.from_scores, scores=_LISTS[0], rewards=_LISTS[1]),
    _case(
        OutputSample.from_gram,
        gram=np.concatenate(_LISTS[0]) @ np.concatenate(_LISTS[0]).T, rewards=_SAMPLE.rewards,
        prompts=_IDS,
    ),
    _case(SignSample, components=_CONTRIBUTIONS),
    _case(
        SignProbes,
        weights=_PROBES.weights, block_sizes=_PROBES.block_sizes, group_size=_PROBES.group_size,
    ),
    _case(_PROBES.measured, squared_norms=np.ones(len(_PROBES.weights))),
    _case(estimate_noise, sample=_SAMPLE, level=0.95),
    _case(
        sign_probes,
        rewards=_SAMPLE.rewards, prompts=_IDS, prompts_per_block=2, num_draws=1,
        rng=np.random.default_rng(1),
    ),
]  # fmt: skip

CASES = [*LAWS, *BINARY, *PLANNER, *NOISE]
