"""`ustat-grpo measure`: a plan from outputs that a model gives now."""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ustat_grpo.command_line.plan import add_plan_options, check_plan_options, show_plan
from ustat_grpo.command_line.streams import tell
from ustat_grpo.inputs.checks import integer
from ustat_grpo.inputs.extras import from_extra
from ustat_grpo.inputs.files import require_another_file
from ustat_grpo.noise import OutputSample
from ustat_grpo.noise.groups import MIN_OUTPUTS, MIN_PROMPTS
from ustat_grpo.noise.sample_files import SUFFIXES, save_sample

if TYPE_CHECKING:
    from torch import Tensor

    from ustat_grpo.command_line.measured_policies import MeasuredPolicy
    from ustat_grpo.lm.language_model import Rollouts

_DESCRIPTION = """\
Draw outputs from a language model, reward them, measure their scores and
gradients, and recommend a batch size and a group size. The model is a folder
as `save_pretrained` writes it (extra llm), or one of the small arithmetic
policies that come with the package. Nothing is downloaded or trained.
"""

_EXAMPLES = """\
tasks:
  arithmetic     mental arithmetic, which needs no file; the last number counts
  gsm8k, math    a local file in the published form; judged by math-verify
  prompts        a file of lines {"prompt": "...", "answer": "..."}, each asked
                 word for word and judged as --reward says
  reasoning_gym  a data set of reasoning-gym (extra reasoning), made for --dataset
                 with --dataset-config, asked word for word, judged by its own judge

rewards, 1 or 0:
  first-number, last-number   whether that number of the output is the answer
  boxed                       whether the last \\boxed{} holds the answer
  math                        whether math-verify finds them equivalent
  text                        whether the text is the answer
  MODULE:FUNCTION             your own, called as trl calls reward functions: by
                              the keywords prompts, completions, completion_ids
                              and the columns of the file; any numbers

examples:
  ustat-grpo measure --policy intermediate --budget 512
  ustat-grpo measure --model ./Qwen2.5-0.5B-Instruct --task gsm8k \\
      --questions train.jsonl --budget 1024 --dtype bfloat16
  ustat-grpo measure --model ./mine --task prompts --questions mine.jsonl \\
      --reward text --stop '\\n' --budget 512 --save mine.npz
  ustat-grpo measure --model ./mine --task reasoning_gym --dataset gcd \\
      --dataset-config max_value=20 --max-tokens 8 --budget 512
  ustat-grpo plan mine.npz --budget 4096

exit codes: 0 a plan was printed, 1 model or data cannot give one, 2 wrong usage
"""

TASKS = ("arithmetic", "gsm8k", "math", "prompts", "reasoning_gym")
WITH_FILE = ("gsm8k", "math", "prompts")
POLICIES = ("beginner", "intermediate", "advanced")
REWARDS = ("first-number", "last-number", "boxed", "math", "text")
DTYPES = ("float32", "bfloat16", "float16")
SHIPPED_MAX_TOKENS, MAX_TOKENS = 6, 256
"""The most tokens of an output of a small policy, and of a model in a folder."""

LARGEST_COUNT, LARGEST_SEED = 2**31 - 1, 2**63 - 1
"""What torch takes as a size, and as a seed."""

_NO_MEMORY = "can't allocate memory"  # all that tells the error of the CPU from others

GROUPS_PER_PASS = 8
"""Prompts measured together of a model in a folder; small policies are measured all at once."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "measure",
        help="a plan from outputs that a model gives now",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_model_options(parser)
    _add_task_options(parser)
    _add_sampling_options(parser)
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help="write the measurements, too: .npz, .csv, .jsonl"
    )
    add_plan_options(parser)
    parser.set_defaults(run=_run)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", type=Path, metavar="FOLDER", help="a Hugging Face model")
    which.add_argument("--policy", choices=POLICIES, help="a small policy of this package")
    parser.add_argument(
        "--device", default="auto", metavar="NAME",
        help="such as cpu or cuda:0 (default: the GPU if there is one)",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of the weights, with --model (default: float32)"
    )
    parser.add_argument(
        "--no-chat", dest="chat", action="store_false",
        help="with --model: prompts as they are, not in the tokenizer's chat template",
    )  # fmt: skip
    parser.add_argument(
        "--system", metavar="TEXT", help="with --model: what the system says in the chat template"
    )
    parser.add_argument(
        "--prefill", default="", metavar="TEXT",
        help="with --model: words with which every answer in the chat template begins",
    )  # fmt: skip


def _add_task_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--task", choices=TASKS, default="arithmetic", help="see below (default: arithmetic)"
    )
    parser.add_argument(
        "--questions", type=Path, metavar="FILE",
        help="of the tasks gsm8k, math and prompts: .jsonl or .parquet",
    )  # fmt: skip
    parser.add_argument(
        "--examples", type=Path, metavar="FILE",
        help="questions that every prompt shows first with their solutions: a file as the task's, "
        "or as that of the task prompts",
    )  # fmt: skip
    parser.add_argument("--dataset", metavar="NAME", help="of the task reasoning_gym, such as gcd")
    parser.add_argument(
        "--dataset-config", metavar="KEY=VALUE", action="append", type=_parameter, default=[],
        help="a parameter of the data set, its value in JSON; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--reward", metavar="NAME",
        help=f"{', '.join(REWARDS)} or MODULE:FUNCTION, see below (needed by the task prompts)",
    )  # fmt: skip


def _add_sampling_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompts", type=int, default=64, metavar="B",
        help="drawn from the questions without replacement (default: 64, better 128)",
    )  # fmt: skip
    parser.add_argument(
        "--outputs", type=int, default=8, metavar="M", help="to each prompt (default: 8)"
    )
    parser.add_argument(
        "--max-tokens", type=int, metavar="L",
        help=f"the most tokens of an output (default: {MAX_TOKENS} with --model, "
        f"{SHIPPED_MAX_TOKENS} with --policy)",
    )  # fmt: skip
    parser.add_argument(
        "--stop", metavar="TEXT", action="append", type=_escaped, default=[],
        help="with --model: what ends an output, such as '\\n'; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--temperature", type=float, default=1.0, metavar="T",
        help="with --model: outputs are drawn, and scored, from softmax(logits/T) (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of prompts and outputs (default: 0)"
    )
    parser.add_argument(
        "--groups-per-pass", type=int, metavar="K",
        help="prompts whose outputs are measured together: fewer need less memory, more tell c₁ "
        f"better (default: {GROUPS_PER_PASS} with --model, all with --policy)",
    )  # fmt: skip
    parser.add_argument(
        "--outputs-at-once", type=int, default=256, metavar="N",
        help="sampled together; bounds the memory (default: 256)",
    )  # fmt: skip


def _run(args: argparse.Namespace) -> int:
    check_plan_options(args)
    try:
        _check(args)
    except ValueError as error:
        args.usage_error(str(error))
    sample, unjudged = _measured(_with_defaults(args))
    if args.save is not None:
        save_sample(sample, args.save)
        tell(f"ustat-grpo {args.command}: wrote {args.save}")
    return show_plan(sample, args, unjudged=unjudged)


def _check(args: argparse.Namespace) -> None:
    """Raise if options are out of range or do not go together."""
    least = {"prompts": MIN_PROMPTS, "outputs": MIN_OUTPUTS, "seed": 0, "outputs_at_once": 1}
    optional = {"max_tokens": 1, "groups_per_pass": 2}
    least |= {name: low for name, low in optional.items() if getattr(args, name) is not None}
    for name, low in least.items():
        most = LARGEST_SEED if name == "seed" else LARGEST_COUNT
        integer(_option(name), getattr(args, name), at_least=low, at_most=most)
    if args.policy is not None:
        for name, unset in _ONLY_OF_MODELS.items():
            if getattr(args, name) != unset:
                raise ValueError(f"{_option(name)} needs --model, got --policy {args.policy}")
    needed = {
        "questions": args.task in WITH_FILE,
        "reward": None if args.task in ("arithmetic", *WITH_FILE[:2]) else args.task == "prompts",
        "dataset": args.task == "reasoning_gym",
    }
    for name, is_needed in needed.items():
        if is_needed is not None and (getattr(args, name) is not None) != is_needed:
            verb = "must be given" if is_needed else "must not be given"
            raise ValueError(f"{_option(name)} {verb} with --task {args.task}")
    if args.dataset_config and args.dataset is None:
        raise ValueError(f"--dataset-config must not be given with --task {args.task}")
    if args.reward is not None and args.reward not in REWARDS and ":" not in args.reward:
        raise ValueError(
            f"--reward must be {', '.join(REWARDS)} or MODULE:FUNCTION, got {args.reward!r}"
        )
    if args.save is not None and args.save.suffix not in SUFFIXES:
        raise ValueError(f"--save must end in {', '.join(SUFFIXES)}, got {args.save}")
    _check_outputs(args)


def _check_outputs(args: argparse.Namespace) -> None:
    """Raise if a file to be written is one that is read, or both are one."""
    read = [path for path in (args.questions, args.examples) if path is not None]
    if args.save is not None:
        require_another_file("--save", args.save, read)
    if args.html is not None:
        require_another_file("--html", args.html, [*read, *([args.save] if args.save else [])])


_ONLY_OF_MODELS = {
    "task": "arithmetic", "dtype": None, "chat": True, "system": None, "prefill": "",
    "examples": None,
    "stop": [], "temperature": 1.0, "reward": None,
}  # fmt: skip
"""Options that small policies have no use for, and what they are unless given."""


def _parameter(text: str) -> tuple[str, Any]:
    """Return the name and the value of KEY=VALUE; what is no JSON is taken as a text."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _escaped(text: str) -> str:
    """Return a text with the line breaks and tabs that a shell hands over as two characters."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def _option(name: str) -> str:
    return "--no-chat" if name == "chat" else f"--{name.replace('_', '-')}"


def _with_defaults(args: argparse.Namespace) -> argparse.Namespace:
    """Return the options, those set that depend on the kind of model."""
    small = args.policy is not None
    depending = {
        "dtype": DTYPES[0],
        "max_tokens": SHIPPED_MAX_TOKENS if small else MAX_TOKENS,
        "groups_per_pass": None if small else GROUPS_PER_PASS,
    }
    unset = {name: value for name, value in depending.items() if getattr(args, name) is None}
    return argparse.Namespace(**vars(args) | unset)


def _measured(args: argparse.Namespace) -> tuple[OutputSample, int]:
    """Return the sample that the options ask for, and the number of outputs without a verdict.

    Progress goes to stderr.

    Raises:
        ValueError: if a file is missing or wrong, or the device's memory is too small.
    """
    torch, _ = from_extra("torch"), from_extra("rich")
    from rich.console import Console
    from rich.progress import Progress

    from ustat_grpo.command_line.measured_policies import measured_policy
    from ustat_grpo.lm.scores.output_sample import measured_batches

    policy = measured_policy(args)
    size, samples = args.groups_per_pass, []
    try:
        with Progress(console=Console(stderr=True)) as progress:
            rollouts, rewards = _drawn(policy, args, progress.track)
            task = progress.add_task("measuring", total=args.prompts)
            for each in measured_batches(policy.model, rollouts, rewards, groups_per_pass=size):
                samples.append(each)
                progress.advance(task, len(each.gradient_norms))
            progress.update(task, completed=args.prompts)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and _NO_MEMORY not in str(error):
            raise
        raise ValueError(
            "memory of the device must hold --outputs-at-once and --groups-per-pass, "
            f"got {args.outputs_at_once} and {size or args.prompts}: lower them"
        ) from error
    return _to_ten_digits(OutputSample.joined(samples)), int(rewards.isnan().sum())


def _to_ten_digits(sample: OutputSample) -> OutputSample:
    """Round what was measured: the digits beyond are those of the processor's own rounding."""
    rounded = {
        name: np.array([float(f"{value:.10g}") for value in getattr(sample, name)])
        for name in ("score_norms", "gradient_norms", "gradient_products")
    }
    return replace(sample, **rounded)


def _drawn(
    policy: "MeasuredPolicy", args: argparse.Namespace, track: Callable[..., Any]
) -> tuple["Rollouts", "Tensor"]:
    """Return outputs to every prompt, cut to the longest, and their rewards."""
    import torch

    from ustat_grpo.lm.language_model import Rollouts
    from ustat_grpo.lm.sampling import sample_groups

    rng = torch.Generator().manual_seed(args.seed)
    places = torch.arange(args.prompts, device=policy.prompts.tokens.device)
    batches = places.split(max(1, args.outputs_at_once // args.outputs))
    parts = [
        sample_groups(
            policy.model, policy.prompts[rows], args.outputs, max_tokens=args.max_tokens, rng=rng
        )
        for rows in track(batches, description="sampling")
    ]
    _require_ends(policy, parts[0], args)
    pairs = track(list(zip(parts, batches, strict=True)), description="rewarding")
    rewards = torch.cat([policy.reward(part, rows) for part, rows in pairs])
    longest = max(int(part.mask.sum(dim=-1).max()) for part in parts)
    outputs, mask, log_probs = (
        torch.cat([getattr(part, name) for part in parts])[..., :longest]
        for name in ("outputs", "mask", "log_probs")
    )
    return Rollouts(policy.prompts, outputs, mask, log_probs), rewards


def _require_ends(policy: "MeasuredPolicy", first: "Rollouts", args: argparse.Namespace) -> None:
    """Raise if stop strings were given, but nothing ends an output of the first batch."""
    lengths = first.mask.sum(dim=-1)
    if not args.stop or bool((lengths < args.max_tokens).any()):
        return
    if not bool(policy.model.ended(first.outputs.flatten(0, 1)).any()):
        raise ValueError(
            f"--stop must end outputs within --max-tokens {args.max_tokens}, got {args.stop}, "
            f"which none of {lengths.numel()} outputs to the prompts 0 to {len(lengths) - 1} holds"
        )
