"""The items of the paper, in its order: what it says, what we found, and what decides it.

This table states each verdict and why. It stands only as long as the evidence allows it, see
`scoreboard.verdict`: no verdict outlives a claim that fails. In what was found, words in braces are
numbers of `quotes.numbers`, taken from the claims and the references.
"""

from dataclasses import dataclass

from experiments.ledger.evidence import REFINED, REFUTED, REPRODUCED

NOT_ATTEMPTED = "not attempted"
VERDICTS = (REPRODUCED, REFINED, REFUTED, NOT_ATTEMPTED)


@dataclass(frozen=True)
class PaperItem:
    """One row of the scoreboard.

    Args:
        name: the paper's label, with what it was run on where that is another model.
        says: what the paper says, in one line.
        verdict: one of `VERDICTS`, while the evidence allows it.
        reason: for the verdict, for a reader of this table.
        found: what we found, in one line; numbers stand in braces.
        chapters: theory chapters that it rests on; the first is linked to.
        groups: readings that it rests on; the first is linked to.
        claims: (chapter, statement) of single claims that it rests on.
        untried: heading of the section that says how it would be run, if it was not.
    """

    name: str
    says: str
    verdict: str
    reason: str
    found: str
    chapters: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    claims: tuple[tuple[str, str], ...] = ()
    untried: str = ""


THEORY = (
    PaperItem(
        "Algorithm 1",
        "gradient ascent with the mean of W(Z − C) over B prompts with G outputs each",
        REFINED,
        "the paper bounds the mean gap, we give its curve",
        "The mean gap has a law of first order in the noise: {gap_points} points, {gap_off} off "
        "(median) at N = {gap_budget}",
        groups=("gap_law",),
    ),
    PaperItem(
        "Table 1",
        "vanilla, GRPO and the oracle differ in the baseline C only",
        REPRODUCED,
        "all three are one estimator with three baselines, unbiased by enumeration",
        "All three are unbiased, summed over every group",
        claims=(("group_error", "vanilla: E ĝ = g"), ("group_error", "oracle: E ĝ = g"),
                ("group_error", "GRPO: E ĝ = g")),
    ),
    PaperItem(
        "Lemma 1",
        "GRPO's gradient is a second-order U-statistic",
        REPRODUCED,
        "exact; only the proof's last line and the projection have slips",
        "Exactly, and the sample covariance of score and reward ({u_statistic} checks)",
        chapters=("u_statistic",),
    ),
    PaperItem(
        "Theorem 2",
        "its error is the oracle's plus O(G⁻²)",
        REFINED,
        "the exact term in place of its order",
        "The second term is (sσ² + ‖g‖²)/(G(G−1)), exactly ({group_error} checks)",
        chapters=("group_error",),
    ),
    PaperItem(
        "Proposition 3",
        "of a minibatch: c₁/B + c₂/(BG) + O(1/(BG²))",
        REFINED,
        "exact constants",
        "c₁/B + c₂/(BG) + c₃/(BG(G−1)), exactly; {error_points} measured errors, all within "
        "{error_z} std. errors",
        chapters=("minibatch_error",),
        groups=("agreement",),
    ),
    PaperItem(
        "Corollary 4",
        "up to higher orders, GRPO's error is the oracle's",
        REFINED,
        "the exact excess",
        "It exceeds it by a share κ/(G−1): {share_8} at G = 8, {share_32} at 32 on a small problem",
        chapters=("oracle_property",),
    ),
    PaperItem(
        "Corollary 5",
        "GRPO is asymptotically best among prompt-only baselines, and beats vanilla (Assumption 2)",
        REFINED,
        "true under Assumption 2 and in large groups; neither can be left out",
        "Only in large groups: from G = {crossover} on where V = 0.05. Without Assumption 2 "
        "possibly never, as on {never_low} to {never_high} of our language models' questions",
        chapters=("baseline_optimality", "baseline_counterexamples", "vanilla_crossover"),
        groups=("hard_prompts", "gap_order"),
    ),
    PaperItem(
        "Lemma 6",
        "bounds on the mean gap, rates β and β/i",
        REPRODUCED,
        "every measured gap is below its bound",
        "They hold at every checkpoint; the last gap is below them by factors of {bound_low} to "
        "{bound_high}",
        chapters=("suboptimality_gap",),
        groups=("gap_bound",),
    ),
    PaperItem(
        "Theorem 7",
        "at fixed N the best G is √(c₃/c₁), whatever N, n and the learning rate",
        REFINED,
        "the exact minimiser is another (erratum 3), and the gap weighs noise in its own way",
        "1 + √(c₃/c₁) ≥ 1 + √2 for the gradient's error, within 5 % on {best_divisors} policies. "
        "For the gap other weights; the same at every N, at every n only late in training",
        chapters=("group_size", "noise_components", "gap_scaling"),
        groups=("fixed_budget", "path", "rules"),
    ),
    PaperItem(
        "Theorem 8",
        "nΔ_n tends to Σ w_k χ²₁",
        REFINED,
        "the covariance lacks a factor (erratum 1)",
        "With β² in Σ: mean {limit_mean}, law {limit_law}; without it the law is off by a factor "
        "of {limit_factor}",
        chapters=("limit_distribution",),
        groups=("limit_law",),
    ),
    PaperItem(
        "Corollary 9",
        "GRPO's weights are the oracle's plus O(G⁻²)",
        REFINED,
        "the exact constant in place of the order",
        "Their sum by k₃/(BG(G−1)), at every G ({limit_weights} checks)",
        chapters=("limit_weights",),
    ),
    PaperItem(
        "Corollary 10",
        "no prompt-only baseline has smaller weights than the oracle (Assumption 2, matrices)",
        REFINED,
        "true as it stands; the assumption is empty for softmax-linear policies",
        "For softmax-linear policies the assumption leaves no curvature. Without it vanilla's "
        "weight can be smaller: {vanilla_weight} against {oracle_weight} on a small problem",
        chapters=("baseline_weights",),
    ),
)  # fmt: skip

EXPERIMENTS = (
    PaperItem(
        "Figure 4",
        "gradient error: vanilla > GRPO > oracle; GRPO the oracle's at G = 32–64; falls with G and "
        "skill",
        REFUTED,
        "the order fails on most tasks, and the excess at large G is resolved",
        "The order fails on {order_fails} tasks; on language models vanilla is below the oracle in "
        "{vanilla_best} cells. GRPO at G = 32: up to {close_32} times the oracle's error. It falls "
        "with G: {falls_size}; with skill: {falls_skill}",
        groups=("errors", "policies"),
    ),
    PaperItem(
        "Figure 4, Qwen2.5-0.5B",
        "the same on three policies made of it",
        NOT_ATTEMPTED,
        "weights",
        "No weights here: small transformers of our own in their place, see above",
        untried="Figure 4 on Qwen2.5-0.5B",
    ),
    PaperItem(
        "Figure 5",
        "G = 32 is best at nearly every n; most differences are not significant",
        REFINED,
        "one G suits every n late in training; early on the law's best G may move",
        "Small transformer: G = {language_best} may be best at every n and N; G* = "
        "{language_optimal}, not 32; five seeds tell the two best apart in {few_seeds} cells. "
        "Small problems: one G suits every n on {every_iteration} policies",
        groups=("language", "every_iteration"),
    ),
    PaperItem(
        "Figure 5, Qwen2.5-1.5B",
        "GSM8K, N = 1024",
        NOT_ATTEMPTED,
        "weights",
        "No weights here: the small transformer in its place",
        untried="Figure 5 on Qwen2.5-1.5B",
    ),
    PaperItem(
        "Table 2",
        "G = 64 is best at N = 1024 and 2048, 128 at 4096: the finite set of prompts?",
        REFINED,
        "one G suits every N up to ties, and is not the paper's; a finite set moves it in epochs",
        "One G suits every N, up to ties, on {every_budget} policies and on the small transformer: "
        "there {language_best}, not 64. A finite set moves it up to {epochs_best}, if gone through "
        "in epochs",
        groups=("every_budget", "finite_prompts", "language"),
    ),
    PaperItem(
        "Table 2, Qwen2.5-Math-7B",
        "MATH, N = 1024 to 4096",
        NOT_ATTEMPTED,
        "weights",
        "No weights here: the small transformer in its place",
        untried="Table 2 on Qwen2.5-Math-7B",
    ),
)

PRACTICE = (
    PaperItem(
        "Algorithm 2",
        "normalised advantages, importance ratios, a K3 penalty, m updates a batch",
        REFINED,
        "runs end where our law says, with another divergence than the paper's",
        "Without normalisation runs end at the best E V − κ KL, within {plain_z} std. errors. K3 "
        "penalises KL(π_ref ‖ π_θ): the other is {penalty_off} std. errors off or more",
        groups=("plain_runs", "penalised_runs"),
    ),
    PaperItem(
        "Lemma 11",
        "normalised, it is no U-statistic, but tends to one",
        REFINED,
        "rates and constants in place of a limit",
        "The bias falls like G⁻¹ (slope {normalised_slope}), with its constant "
        "({normalised_u_statistic} checks)",
        chapters=("normalised_u_statistic",),
    ),
    PaperItem(
        "Theorem 12",
        "squared biases O(m²η²/ε) and O(κ²m²η²/ε³), then tr Σ₁/G",
        REFINED,
        "exact constants; another power of m, and a term of order 1/G",
        "Like (m−1)²η², not m² (slopes {bias_rate} in η, {bias_batches} in m−1), no growth in 1/ε; "
        "estimating σ costs a term of order 1/G",
        chapters=("practical_error", "practical_penalty", "practical_variance"),
        groups=("practical_bias",),
    ),
    PaperItem(
        "Proposition 13",
        "0/1 rewards: runs end where E 2 arcsin √V − κ KL(π_θ ‖ π_ref) is largest",
        REFINED,
        "true in the limit of large groups, with the divergence that K2 penalises",
        "At finite G where E F_G − κ KL(π_ref ‖ π_θ) is: within {runs_z} std. errors, and "
        "{runs_limit} of them or more from the limit's",
        chapters=("implied_objective",),
        groups=("normalised_runs", "penalised_runs"),
    ),
)


@dataclass(frozen=True)
class Beyond:
    """A question that the paper does not ask, with our answer; numbers stand in braces."""

    asked: str
    found: str
    where: str
    is_chapter: bool = False


BEYOND = (
    Beyond(
        "0/1 rewards: what does any group advantage maximise?",
        "E F_G(V) with F_G′ = φ_G; mean and error exactly ({group_advantages} checks)",
        "group_advantages",
        True,
    ),
    Beyond(
        "Which rule for G is safe?",
        "Largest excess of the gap: {rule_law} by our law, {rule_paper} by the paper's, {rule_8} "
        "at a fixed 8, {rule_32} at 32",
        "rules",
    ),
    Beyond(
        "Which shipped estimator is least noisy?",
        "None everywhere. Dynamic sampling has {dynamic} of GRPO's error, ReMax {remax} of RLOO's "
        "or more",
        "zoo",
    ),
    Beyond(
        "What does leaving out the critic save?",
        "{critic_memory} of the memory, mostly since groups of equal rewards are not scored: the "
        "network is {critic_share}. With a critic accuracy is {critic_gain} higher",
        "critic",
    ),
    Beyond(
        "Whole episodes as outputs?",
        "The same laws: {episode_moments} checks, and every measured error on FrozenLake within "
        "{lake_z} std. errors",
        "episode_errors",
    ),
    Beyond(
        "Which G trains best on FrozenLake?",
        "Those of least gradient error where runs begin (G* = {lake_optimal})",
        "episodes",
    ),
    Beyond(
        "Can G* be measured on one batch?",
        "On our tasks: intervals of 95 % cover in {cover_low} or more at B = 512; where G* is "
        "large they have no upper end",
        "coverage",
    ),
    Beyond(
        "Does planning G train better?",
        "Than a fixed 64 by {plan_64} of the range from best to worst, than 16 by {plan_16}, than "
        "8 by {plan_8}",
        "plans",
    ),
)


@dataclass(frozen=True)
class Erratum:
    """A slip of the paper, with the chapter that decides it."""

    place: str
    correction: str
    chapter: str


ERRATA = (
    Erratum("Theorem 8, step (iii)", "Σ lacks the factor β²: the noise is β(ĝ − g)",
            "limit_distribution"),
    Erratum("after Lemma 1", "2h₁ is WA − g, not WA", "u_statistic"),
    Erratum("Theorem 7", "G* is 1 + √(c₃/c₁), not √(c₃/c₁), with the proof's own G(G−1)",
            "group_size"),
    Erratum("Lemma 1, last line of the proof", "one factor ½ too many", "u_statistic"),
    Erratum("display (24); proof of Lemma 6",
            "the cross term is 2(V−b)m; the discriminant is 4μ² − 4μL", "errata"),
    Erratum("last remark, N = nBG", "the minimum is 2n√(c₁c₃)/N; G* is not affected", "errata"),
)  # fmt: skip
