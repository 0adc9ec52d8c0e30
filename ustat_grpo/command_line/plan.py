"""`ustat-grpo plan`: a plan from a file of measurements."""

import argparse
import json
from pathlib import Path

import numpy as np

from ustat_grpo.command_line.plan_json import as_json, counts_of
from ustat_grpo.command_line.streams import tell
from ustat_grpo.inputs.checks import real
from ustat_grpo.inputs.files import require_another_file
from ustat_grpo.moments import NoiseComponents
from ustat_grpo.noise import NoiseEstimate, OutputSample, SignSample, estimate_noise
from ustat_grpo.noise.sample_files import load_sample
from ustat_grpo.planner import Cost, Plan, PromptValues, plan
from ustat_grpo.planner.answer import table

_DESCRIPTION = """\
Recommend a batch size and a group size from a file of measurements (.npz, .csv
or .jsonl): rewards, score norms and group gradients of at least 8 prompts with
at least 3 outputs each, 128 prompts are better. The format is described in
docs/planner.md; `ustat-grpo measure` writes such a file.
"""

_EXAMPLES = """\
examples:
  ustat-grpo plan sample.csv --budget 512
  ustat-grpo plan sample.npz --budget 1024 --min-batch-size 16 --html plan.html
  ustat-grpo plan sample.csv --budget 4096 --cost-per-prompt 3
  ustat-grpo plan sample.jsonl --budget 512 --json

exit codes: 0 a plan was printed, 1 the file cannot give one, 2 wrong usage
"""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "plan",
        help="a plan from a file of measurements",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="measurements: .npz, .csv, .jsonl")
    add_plan_options(parser)
    parser.set_defaults(run=_run)


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """Add what a plan depends on beside the sample, and how it is shown."""
    parser.add_argument(
        "--budget", type=int, required=True, metavar="N",
        help="what a step may cost: its number of outputs, unless costs are given",
    )  # fmt: skip
    parser.add_argument(
        "--cost-per-prompt", type=float, default=0.0, metavar="A",
        help="what a prompt costs beside its outputs, such as its prefill (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--cost-per-output", type=float, default=1.0, metavar="B",
        help="what an output costs, in the unit of the budget (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--min-batch-size", type=int, default=1, metavar="B",
        help="prompts that a step must have at least (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--level", type=float, default=0.95, metavar="L",
        help="coverage of the intervals (default: 0.95)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the plan as a JSON object")
    parser.add_argument("--html", type=Path, metavar="PATH", help="write the plan as a page, too")
    parser.set_defaults(usage_error=parser.error)


def check_plan_options(args: argparse.Namespace) -> None:
    """Exit with wrong usage if no sample can give a plan for these options."""
    try:
        real("level", args.level, above=0.0, below=1.0)
        with np.errstate(over="raise"):
            _planned(NoiseComponents(prompt=1.0, oracle=1.0, residual=1.0), args)
    except ValueError as error:
        args.usage_error(str(error))
    except ArithmeticError:
        costs = f"{args.cost_per_prompt:g} a prompt and {args.cost_per_output:g} an output"
        args.usage_error(f"costs must be of a size that a budget can be divided by, got {costs}")


def show_plan(
    sample: OutputSample | SignSample, args: argparse.Namespace, *, unjudged: int = 0
) -> int:
    """Print the plan of a sample and return the exit code.

    Args:
        sample: of outputs or of blocks.
        args: parsed by a parser with `add_plan_options`.
        unjudged: outputs that were drawn, but are not in the sample for want of a verdict.

    Raises:
        ValueError: if the sample cannot give a plan.
        OSError: if the page cannot be written.
    """
    noise = estimate_noise(sample, level=args.level)
    prompts = PromptValues.of(sample) if isinstance(sample, OutputSample) else None
    answer = _planned(noise, args, prompts)
    if args.html is not None:
        answer.to_html(args.html)
        tell(f"ustat-grpo {args.command}: wrote {args.html}")
    if args.json:
        for doubt in answer.doubts:
            tell(f"ustat-grpo {args.command}: WARNING: {doubt}")
        told = as_json(sample, noise, answer)
        told["sample"] |= {"unjudged": unjudged} if unjudged else {}
        print(json.dumps(told, allow_nan=False, indent=2))
    else:
        left_out = f"\n{unjudged} outputs had no verdict and are left out" if unjudged else ""
        print(table(answer, preface=_in_words(sample, noise) + left_out))
    return 0


def _run(args: argparse.Namespace) -> int:
    check_plan_options(args)
    if args.html is not None:
        try:
            require_another_file("--html", args.html, [args.file])
        except ValueError as error:
            args.usage_error(str(error))
    return show_plan(load_sample(args.file), args)


def _planned(
    noise: NoiseEstimate | NoiseComponents,
    args: argparse.Namespace,
    prompts: PromptValues | None = None,
) -> Plan:
    cost = Cost(per_prompt=args.cost_per_prompt, per_output=args.cost_per_output)
    least = args.min_batch_size
    return plan(noise, budget=args.budget, cost=cost, prompts=prompts, min_batch_size=least)


def _in_words(sample: OutputSample | SignSample, noise: NoiseEstimate) -> str:
    """Return what was measured and c₁, c₂, c₃ with standard errors, in at most 80 columns."""
    counts = " and ".join(f"{count} {what}" for what, count in counts_of(sample).items())
    values = (noise.prompt, noise.oracle, noise.residual)
    shown = (
        f"{name} = {value:.3g} ± {error:.3g}"
        for name, value, error in zip(("c₁", "c₂", "c₃"), values, noise.std_errors, strict=True)
    )
    return f"Measured on {counts} (± standard error)\n{', '.join(shown)}"
