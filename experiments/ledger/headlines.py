"""The headline of each theory chapter: the claim that speaks for it, and what it decides.

The second entry is the verdict while every claim of the chapter holds: its kind, then the reason.
"""

HEADLINES = {
    "u_statistic": (
        "ĝ_GRPO is the mean of h over all pairs (NumPy)",
        "reproduced; errata 2 and 4: 2h₁ = WA − g, and one factor ½ too many in the last line",
    ),
    "group_error": (
        "GRPO: error of every problem, G = 2, 3, 4",
        "refined: the second term is (sσ² + ‖g‖²)/(G(G−1)) exactly",
    ),
    "minibatch_error": (
        "GRPO: c₁/B + c₂/(BG) + c₃/(BG(G−1)), B ≤ 3",
        "refined: exact c₁, c₂, c₃; biased estimators and complete passes too",
    ),
    "oracle_property": (
        "G = 32: GRPO's error exceeds the oracle's by κ/(G−1), a share",
        "refined: the exact share",
    ),
    "baseline_optimality": (
        "vanilla is worse by V²s/G",
        "reproduced under Assumption 2",
    ),
    "baseline_counterexamples": (
        "tug-of-war at t = 1: vanilla less oracle is (V²s + 2Vm)/G",
        "refuted without Assumption 2: vanilla can beat the oracle",
    ),
    "vanilla_crossover": (
        "a hard prompt, V = 0.05: G at which GRPO overtakes vanilla",
        "refuted at small G: the claim is asymptotic; the crossover is exact",
    ),
    "group_size": (
        "G* = 1 + √(c₃/c₁), c's solved from enumerated errors",
        "refined (erratum 3), for the gradient's error: G* = 1 + √(c₃/c₁) ≥ 1 + √2",
    ),
    "noise_components": (
        "c₁, c₂, c₃ over every batch, problem 1",
        "refined: unbiased from three outputs a prompt; two do not tell c₂ from c₃",
    ),
    "suboptimality_gap": (
        "constant rate: mean gap over bound at 10 checkpoints (largest ratio, + 4 s.e.)",
        "reproduced; the proof needs β < 2/L only, and the bounds are loose",
    ),
    "gap_scaling": (
        "N = 1024, G = 16: mean gap after 120 iterations",
        "refined: a curve in place of a bound; universal in N, and in n only late in training",
    ),
    "limit_distribution": (
        "rank 3: mean of nΔ_n is Σw_k",
        "refined (erratum 1): Σ needs the factor β²",
    ),
    "limit_weights": (
        "three axes: Σ(w_GRPO − w_oracle) = k₃/(BG(G−1)), G = 8, …, 1024",
        "refined: the exact constant, at every G",
    ),
    "baseline_weights": (
        "refuted: tug of war: no prompt-only baseline has a smaller weight than the oracle",
        "refined: true under its assumption, which leaves softmax-linear policies no curvature; "
        "refuted without it",
    ),
    "group_advantages": (
        "normalised, leave-one-out: E ĝ = φ_G(p)g, G = 2, 3, 4",
        "refined: mean, implied objective and error of any such advantage, exactly, at every G",
    ),
    "normalised_u_statistic": (
        "mean of the others: the bias falls like G⁻¹ (not G⁻²)",
        "refined: the exact bias and distance to the limit, each with rate and constant",
    ),
    "practical_error": (
        "token: squared bias / η² → (m−1)²‖Cg‖², m = 9, 5, 3, 2",
        "refined: exact constant; (m−1)² and a noise term, not m²; no growth as ε → 0 for softmax "
        "logits",
    ),
    "practical_penalty": (
        "token ratio and K3: (m−1)²‖(C − κD)(g − κh)‖², m = 4, κ = 0, ½, 1, 2",
        "refined: up to κ⁴ along a run's own path; K3 on fresh outputs is not ∇KL(π_θ ‖ π_ref)",
    ),
    "practical_variance": (
        "0/1: tr Cov(ψ) = tr Σ₁ − ¾(1−2p)²‖v‖²/σ⁴",
        "refined: estimating σ enters at order 1/G; refuted as a bound with three reward levels, "
        "if Σ₁ is that over the known σ",
    ),
    "implied_objective": (
        "G = 8, K3, m = 2: runs end at the maximiser of E F₈ − κ KL(π_ref ‖ π_θ)",
        "refined: E F_G at finite G, 2 arcsin √V in the limit; K3, differentiated as a loss, "
        "penalises KL(π_ref ‖ π_θ), K2 the proposition's KL(π_θ ‖ π_ref)",
    ),
    "episode_moments": (
        "GRPO: error over every pair of episodes, lake and random rewards",
        "refined: whole episodes obey the same laws; their moments by an exact recursion",
    ),
    "errata": (
        "cross term 2(V−b)m, m ≠ 0",
        "refined: errata 5 and 6",
    ),
}
