"""Exact laws for 0/1 rewards and any advantage that depends on the number of successes.

With p = V(x), and a₁(k), a₀(k) what a success and a failure get when k of G outputs succeed,
E ĝ(x) = φ_G(p)·g(x): the estimator ascends E F_G(V(X)) with F_G′ = φ_G. Estimators differ in
scale, so compare them by tr Var ĝ/‖E ĝ‖².
"""

from ustat_grpo.laws.binary.advantages import (
    GroupAdvantages,
    baseline,
    best_of_group,
    drop_equal_groups,
    group_mean,
    grpo,
    leave_one_out_normalised,
    pass_at_k,
    shrinkage,
    sign,
    std_normalised,
    vanilla,
)
from ustat_grpo.laws.binary.batches import MinibatchLaw, dynamic_sampling, minibatch_law
from ustat_grpo.laws.binary.one_group import (
    dead_group_probability,
    effective_sample_size,
    gain,
    implied_objective,
    limiting_gain,
    limiting_objective,
    mse,
    outcome_moments,
    scale_free_error,
    second_moment,
    variance,
)

__all__ = [
    "GroupAdvantages",
    "MinibatchLaw",
    "baseline",
    "best_of_group",
    "dead_group_probability",
    "drop_equal_groups",
    "dynamic_sampling",
    "effective_sample_size",
    "gain",
    "group_mean",
    "grpo",
    "implied_objective",
    "leave_one_out_normalised",
    "limiting_gain",
    "limiting_objective",
    "minibatch_law",
    "mse",
    "outcome_moments",
    "pass_at_k",
    "scale_free_error",
    "second_moment",
    "shrinkage",
    "sign",
    "std_normalised",
    "vanilla",
    "variance",
]
