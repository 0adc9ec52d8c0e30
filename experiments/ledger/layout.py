"""The pages of `docs/repro/`: which chapters and which experiments stand on which."""

from dataclasses import dataclass

from experiments.ledger.measured import SEQUENTIAL

WEIGHTS = "the weights are not available here"

_SWEEP = (
    "python -m experiments language_group_size -m task={task} policy.path={model} "
    "task.train_path={data}/train.jsonl task.path={data}/test.jsonl {sizes} "
    "group_size=[4,8,16,32,64,128] noise_outputs=32 optimizer=adamw learning_rate=1e-6 "
    "policy.dtype=bfloat16"
)


@dataclass(frozen=True)
class Section:
    """An experiment on a page.

    Args:
        experiment: its name.
        groups: keys of the readings that are shown.
        home: whether its command, cost and figures are given here; elsewhere a link leads there.
        tasks: of which alone figures are shown; if empty, all that no other section shows.
    """

    experiment: str
    groups: tuple[str, ...]
    home: bool = True
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Untried:
    """What the paper did and we did not.

    Args:
        heading: of its section.
        what: was done, and what stands in its place here.
        command: that would do it.
        why: it was not done.
    """

    heading: str
    what: str
    command: str
    why: str


@dataclass(frozen=True)
class Page:
    """A page of `docs/repro/`; what stands out there is in `findings.FINDINGS`."""

    name: str
    title: str
    about: str
    chapters: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()
    untried: tuple[Untried, ...] = ()


PAGES = (
    Page(
        "gradient_error",
        "The error of the gradient",
        "Table 1, Lemma 1 to Corollary 4, and Figure 4: how far is the gradient of vanilla, GRPO "
        "and the oracle from the true one, at each group size?",
        ("u_statistic", "group_error", "minibatch_error", "oracle_property"),
        (Section("gradient_mse", ("errors", "agreement")), Section("pretrain", ("policies",))),
        (
            Untried(
                "Figure 4 on Qwen2.5-0.5B",
                "The gradient's error on Qwen2.5-0.5B, its Instruct, and that with examples; here "
                "on small transformers of our own.",
                "python -m experiments gradient_mse task=arithmetic policy=hf task.max_tokens=64 "
                "policy.path=Qwen2.5-0.5B-Instruct policy.prompts=[plain,examples]",
                WEIGHTS,
            ),
        ),
    ),
    Page(
        "baselines",
        "Baselines that depend on the prompt",
        "Corollary 5: is the value the best baseline, and GRPO better than vanilla?",
        ("baseline_optimality", "baseline_counterexamples", "vanilla_crossover"),
        (
            Section("hard_prompts", ("hard_prompts",)),
            Section("group_size", ("gap_order",), home=False),
        ),
    ),
    Page(
        "group_size",
        "The best group size",
        "Theorem 7 and Algorithm 1: which G has the least error at a fixed budget, and which ends "
        "with the smallest gap?",
        ("group_size", "noise_components", "gap_scaling"),
        (
            Section("fixed_budget", ("fixed_budget",)),
            Section("group_size", ("gap_law",)),
            Section("training_path", ("path",)),
            Section("group_size_rules", ("rules",)),
        ),
    ),
    Page(
        "one_group_size",
        "One group size for every n and every N?",
        "Figure 5 and Table 2: does the best G depend on how long is trained, and on the budget?",
        (),
        (
            Section("language_group_size", ("language",)),
            Section("group_size", ("every_iteration", "every_budget"), home=False),
            Section("finite_prompts", ("finite_prompts",)),
        ),
        (
            Untried(
                "Figure 5 on Qwen2.5-1.5B",
                "Accuracy against G at several n on GSM8K; here on a small transformer.",
                _SWEEP.format(
                    task="gsm8k", model="Qwen2.5-1.5B-Instruct", data="gsm8k",
                    sizes="budget=1024 iterations=[200,300,400,600,800] seeds=5",
                ),
                WEIGHTS,
            ),
            Untried(
                "Table 2 on Qwen2.5-Math-7B",
                "Accuracy against G at several budgets on MATH; here on a small transformer.",
                _SWEEP.format(
                    task="math", model="Qwen2.5-Math-7B", data="math",
                    sizes="budget=1024,2048,4096 iterations=[200] seeds=2",
                ),
                WEIGHTS,
            ),
        ),
    ),
    Page(
        "convergence",
        "Bounds and the limit law of the gap",
        "Lemma 6, Theorem 8, Corollaries 9 and 10: how fast does the gap fall, and what is it "
        "distributed as in the end?",
        ("suboptimality_gap", "limit_distribution", "limit_weights", "baseline_weights"),
        (Section("gap_bound", ("gap_bound",)), Section("limit_law", ("limit_law",))),
    ),
    Page(
        "practice",
        "GRPO as it is practised",
        "Algorithm 2, Lemma 11, Theorem 12, Proposition 13: normalised advantages, outputs that "
        "are used again, and a KL penalty.",
        (
            "group_advantages", "normalised_u_statistic", "practical_error", "practical_penalty",
            "practical_variance", "implied_objective",
        ),
        (
            Section("practical_bias", ("practical_bias",)),
            Section("implied_objective", ("normalised_runs", "plain_runs", "penalised_runs")),
        ),
    ),
    Page(
        "estimator_zoo",
        "The zoo",
        "Every advantage estimator that trainers ship, by exact bias, noise and implied "
        "objective. What each is: [docs/estimators.md](../estimators.md).",
        (),
        (Section("estimator_zoo", ("zoo",)),),
    ),
    Page(
        "critic",
        "A learned critic in place of the group",
        "What GRPO saves by leaving out the value network, and what the network is good for.",
        (),
        (Section("critic", ("critic",)),),
    ),
    Page(
        "episodes",
        "Sequential tasks",
        "A prompt is a start, an output an episode: FrozenLake, whose moments are exact, and "
        "CartPole, of which only episodes can be had. What these are: "
        "[docs/environments.md](../environments.md).",
        ("episode_moments",),
        (
            Section("gradient_mse", ("episode_errors",), home=False, tasks=SEQUENTIAL),
            Section("sequential_group_size", ("episodes",)),
        ),
    ),
    Page(
        "planning",
        "The group-size planner",
        "c₁, c₂, c₃ are measured on a batch of B prompts with M outputs each, and a group size is "
        "planned for a budget. Do the intervals cover, and does following the plan train better "
        "than a fixed G? What these are: [docs/planner.md](../planner.md).",
        (),
        (
            Section("noise_coverage", ("coverage",)),
            Section("planned_group_size", ("plans",)),
        ),
    ),
    Page(
        "errata",
        "Errata of the paper",
        "Slips that change no result are decided here; those that change a formula, in the "
        "chapter of the formula. [The list](../../paper_repro.md#errata-of-the-paper).",
        ("errata",),
    ),
)  # fmt: skip
