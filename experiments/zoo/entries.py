"""The estimators that trainers ship, each with its library, its law if it has one, its objective.

Names stand in configurations, tables and figures. A law is written without the estimator; where
the baseline is random, as that of a critic, a prompt comes in several versions, one for each level
that the baseline can take.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from jaxtyping import Float

from ustat_grpo import Estimator, OptimalBaseline, Oracle, SideInformation, Snapshot, Vanilla
from ustat_grpo.estimators import (
    LIBRARIES,
    NOTHING,
    Critic,
    JamesStein,
    PassAtK,
    ScoreWeightedMean,
    Sign,
)
from ustat_grpo.estimators.scored import Array as AnyArray
from ustat_grpo.inputs.arrays import Array, Integers
from ustat_grpo.inputs.checks import first_largest
from ustat_grpo.laws import binary
from ustat_grpo.laws.binary import GroupAdvantages, MinibatchLaw
from ustat_grpo.moments import OF_PROMPTS, Moments, OutcomeMoments

CRITIC_ERROR = 0.1
"""The root-mean-square error of the critic in the table: it says V(x) ± 0.1, either as likely."""


@dataclass(frozen=True, eq=False)
class PromptProblem:
    """A snapshot with 0/1 rewards, and what laws want to know of it."""

    snapshot: Snapshot

    @cached_property
    def moments(self) -> Moments:
        """The moments, by prompt."""
        return self.snapshot.moments

    @cached_property
    def gram(self) -> Float[Array, "P P"]:
        """⟨g(x), g(x′)⟩; prompts share no parameter if features are one-hot."""
        gradients = self.snapshot.prompt_gradients
        if self.snapshot.features is None:
            return np.diag(np.einsum("pk,pk->p", gradients, gradients))
        return gradients @ gradients.T

    def dead_groups(self, group_size: int) -> float:
        """Return the probability that all rewards of a group are equal."""
        dead = binary.dead_group_probability(self.moments.value, group_size)
        return float(self.snapshot.prompt_probs @ dead)

    @cached_property
    def greedy_chance(self) -> Float[Array, " P"]:
        """The probability that the most likely output succeeds."""
        greedy = first_largest(self.snapshot.action_probs)
        return self.snapshot.mean_reward[np.arange(len(greedy)), greedy]

    def law(self, advantages: GroupAdvantages) -> MinibatchLaw:
        """Return the law of one group at a random prompt."""
        return binary.minibatch_law(advantages, self.moments, self.gram, num_groups=1)

    def versions(self, levels: Array, chances: Array, group_size: int) -> MinibatchLaw:
        """Return the law of a baseline with several levels, shape (M, P), and their chances."""
        copies = len(levels)
        probs = (chances * self.snapshot.prompt_probs).ravel()
        outcome = binary.outcome_moments(self.moments)
        of_prompts = {name: np.tile(getattr(self.moments, name), copies) for name in OF_PROMPTS}
        moments = Moments(
            **of_prompts | {"prompt_probs": probs},
            prompt_noise=self.moments.prompt_noise,
            outcome=OutcomeMoments(
                np.tile(outcome.success_probability, copies),
                np.tile(outcome.success_score_norm_squared, copies),
                np.tile(outcome.failure_score_norm_squared, copies),
            ),
        )
        gram = np.tile(self.gram, (copies, copies))
        advantages = binary.baseline(group_size, levels.ravel())
        return binary.minibatch_law(advantages, moments, gram, num_groups=1)


def norm_squared(snapshot: Snapshot) -> float:
    """Return ‖∇J‖², which a difference of second moments would lose where it is small."""
    return float(snapshot.gradient @ snapshot.gradient)


MinibatchLawOf = Callable[[PromptProblem, int], MinibatchLaw]


def tell(
    snapshot: Snapshot, prompts: Integers, actions: Integers, rng: np.random.Generator
) -> SideInformation:
    """Say what estimators may know of drawn outputs, which are one token long."""
    problem = PromptProblem(snapshot)
    norms = snapshot.score_norm_squared[prompts[..., None], actions]
    error = CRITIC_ERROR * rng.choice([-1.0, 1.0], prompts.shape)
    greedy = rng.random(prompts.shape) < problem.greedy_chance[prompts]
    return SideInformation(
        value=snapshot.value[prompts],
        optimal_baseline=snapshot.optimal_baseline[prompts],
        prediction=snapshot.value[prompts] + error,
        greedy_reward=greedy.astype(float),
        score_norm_squared=norms,
    )


def _plain(advantages: Callable[[int], GroupAdvantages]) -> MinibatchLawOf:
    return lambda problem, group_size: problem.law(advantages(group_size))


def _oracle(problem: PromptProblem, group_size: int) -> MinibatchLaw:
    return problem.law(binary.baseline(group_size, problem.snapshot.value))


def _optimal_baseline(problem: PromptProblem, group_size: int) -> MinibatchLaw:
    return problem.law(binary.baseline(group_size, problem.snapshot.optimal_baseline))


def _critic(problem: PromptProblem, group_size: int) -> MinibatchLaw:
    value = problem.snapshot.value
    levels = np.array([value - CRITIC_ERROR, value + CRITIC_ERROR])
    return problem.versions(levels, np.full((2, 1), 0.5), group_size)


def _greedy(problem: PromptProblem, group_size: int) -> MinibatchLaw:
    chance = problem.greedy_chance
    levels = np.array([np.zeros_like(chance), np.ones_like(chance)])
    return problem.versions(levels, np.array([1 - chance, chance]), group_size)


def _normalised(eps: float) -> MinibatchLawOf:
    return _plain(partial(binary.std_normalised, eps=eps, ddof=1))


def _dynamic_sampling(problem: PromptProblem, group_size: int) -> MinibatchLaw:
    """The law of one group that is kept, hence of more than one that is drawn."""
    return binary.dynamic_sampling(
        binary.std_normalised(group_size, eps=1e-4),
        problem.moments,
        problem.gram,
        num_groups=_groups_a_kept_one(problem, group_size),
    )


def _one(_problem: PromptProblem, _group_size: int) -> float:
    return 1.0


def _one_more_output(_problem: PromptProblem, group_size: int) -> float:
    return (group_size + 1) / group_size


def _groups_a_kept_one(problem: PromptProblem, group_size: int) -> float:
    return 1 / (1 - problem.dead_groups(group_size))


@dataclass(frozen=True)
class NormsForLengths:
    """An estimator that is told ‖W‖² where it asks for lengths, their proxy (OPO)."""

    inner: Estimator

    def advantages(self, rewards: AnyArray, side: SideInformation = NOTHING) -> AnyArray:
        """Return advantages; see `Estimator.advantages`."""
        return self.inner.advantages(rewards, replace(side, lengths=side.norms()))


@dataclass(frozen=True)
class Entry:
    """One estimator of the zoo.

    Args:
        estimator: None if it needs more than one batch.
        family: by what it makes of the rewards: baseline, normalised, batch or transform.
        forms: its names in `LIBRARIES`; all give the same up to a factor.
        objective: what the mean of a group's gradient ascends, or in what limit.
        law: exact mean and noise of one group; None where only simulation knows.
        cost: outputs sampled for each that is used.
        least: smallest G.
    """

    estimator: Estimator | None
    family: str
    forms: tuple[str, ...]
    objective: str
    law: MinibatchLawOf | None = None
    cost: Callable[[PromptProblem, int], float] = _one
    least: int = 2

    @property
    def library(self) -> str:
        """Who ships it."""
        return ", ".join(dict.fromkeys(LIBRARIES[form].library for form in self.forms))


def _shipped(
    family: str,
    forms: str,
    objective: str,
    law: MinibatchLawOf | None = None,
    cost: Callable[[PromptProblem, int], float] = _one,
) -> Entry:
    names = tuple(forms.split())
    return Entry(LIBRARIES[names[0]].estimator, family, names, objective, law, cost)


def _unshipped(
    estimator: Estimator,
    family: str,
    objective: str,
    law: MinibatchLawOf | None = None,
    least: int = 2,
) -> Entry:
    return Entry(estimator, family, (), objective, law, least=least)


_VALUE = "E V"
_ARCSIN = "E 2 arcsin √V as G → ∞"

PASS_AT = 4
"""The k of pass@k in the table."""

ZOO: dict[str, Entry] = {
    "vanilla": _unshipped(Vanilla(), "baseline", _VALUE, _plain(binary.vanilla)),
    "oracle": _unshipped(Oracle(), "baseline", _VALUE, _oracle),
    "optimal_baseline": _unshipped(OptimalBaseline(), "baseline", _VALUE, _optimal_baseline),
    "critic": _unshipped(Critic(), "baseline", _VALUE, _critic),
    "remax": _shipped("baseline", "verl_remax", _VALUE, _greedy, _one_more_output),
    "rloo": _shipped(
        "baseline",
        "trl_rloo verl_rloo verl_rloo_vectorized openrlhf_rloo",
        _VALUE,
        _plain(binary.grpo),
    ),
    "score_weighted": _unshipped(ScoreWeightedMean(), "baseline", _VALUE),
    "james_stein": _unshipped(JamesStein(), "baseline", _VALUE),
    "dr_grpo": _shipped(
        "baseline",
        "trl_dr_grpo verl_dr_grpo openrlhf_dr_grpo",
        "(1 − 1/G) E V",
        _plain(binary.group_mean),
    ),
    "opo": Entry(
        NormsForLengths(LIBRARIES["verl_opo"].estimator), "baseline", ("verl_opo",), "none"
    ),
    "grpo_trl": _shipped("normalised", "trl_grpo", _ARCSIN, _normalised(1e-4)),
    "grpo_verl": _shipped("normalised", "verl_grpo", _ARCSIN, _normalised(1e-6)),
    "grpo_openrlhf": _shipped("normalised", "openrlhf_group_norm", _ARCSIN, _normalised(1e-9)),
    "grpo_paper": _shipped(
        "normalised", "paper_algorithm_2", _ARCSIN, _plain(binary.leave_one_out_normalised)
    ),
    "dynamic_sampling": Entry(
        None, "normalised", ("verl_dapo",), _ARCSIN, _dynamic_sampling, _groups_a_kept_one
    ),
    "drop_equal_groups": _shipped("batch", "verl_dapo", _ARCSIN),
    "grpo_batch_std": _shipped("batch", "trl_grpo_batch", _VALUE),
    "rloo_whitened": _shipped("batch", "trl_rloo_normalised", _VALUE),
    "reinforce_pp": _shipped("batch", "verl_reinforce_plus_plus openrlhf_reinforce", _VALUE),
    "reinforce_pp_baseline": _shipped(
        "batch", "verl_reinforce_plus_plus_baseline openrlhf_reinforce_baseline", _VALUE
    ),
    "gpg": _shipped("batch", "verl_gpg", _VALUE),
    "sign": _unshipped(Sign(), "transform", "more than arcsin", _plain(binary.sign)),
    "pass_at_4": _unshipped(
        PassAtK(PASS_AT),
        "transform",
        "E[1 − (1 − V)⁴]",
        _plain(partial(binary.pass_at_k, k=PASS_AT)),
        PASS_AT,
    ),
    "grpo_passk": _shipped("transform", "verl_grpo_passk", "pass@G", _plain(binary.best_of_group)),
}
