"""Time and memory of exact score norms against one plain forward and backward pass.

`python -m benchmarks.score_norms` prints one table. All ways see the same rows; the plain pass is
what a training step does with them. Memory is what a process takes beyond one that does nothing.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.timing import COLUMNS, AtMost, Row, median_time, peak_memory, row
from ustat_grpo.lm import Answers, Prompts, Transformer, TransformerShape, log_probs
from ustat_grpo.lm.scores.products import score_gram, score_norms

LARGEST_TIME_RATIO = AtMost(1.5)
LARGEST_MEMORY_RATIO = AtMost(1.3)
LARGEST_ERROR = {torch.float32: AtMost(1e-6), torch.float64: AtMost(1e-9)}

VOCABULARY, PROMPT, OUTPUT, OUTPUTS_PER_PROMPT = 19, 11, 6, 16  # a row reads 16 tokens
ROWS, ROWS_IN_MEMORY, ROWS_COMPARED = 512, 2048, 64

_PROCESS = """
import torch
from benchmarks.score_norms import WAYS, case
torch.set_num_threads(1)
way = WAYS[{way!r}]
way(*case(32, {tied}))
way(*case({rows}, {tied}))
"""


def case(
    num_rows: int, tied: bool, dtype: torch.dtype = torch.float32
) -> tuple[Transformer, Answers]:
    """Return the default transformer and random outputs to random prompts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Transformer(TransformerShape(VOCABULARY, tied=tied)).to(dtype)
        num_prompts = -(-num_rows // OUTPUTS_PER_PROMPT)
        lengths = [PROMPT - b % 4 for b in range(num_prompts)]
        prompts = [torch.randint(VOCABULARY, (length,)).tolist() for length in lengths]
        tokens = torch.randint(VOCABULARY, (num_rows, OUTPUT))
        mask = torch.arange(OUTPUT) < torch.randint(1, OUTPUT + 1, (num_rows, 1))
    rows = torch.arange(num_rows) % num_prompts
    return model, Answers(Prompts.of(prompts, pad_token=0), rows, tokens, mask)


def forward_backward(model: Transformer, answers: Answers) -> None:
    """Take the gradient of the sum of all log-probabilities, as a training step does."""
    model.zero_grad()
    log_probs(model, answers, share_prompts=False).sum().backward()


def norms_one_by_one(model: Transformer, answers: Answers) -> Tensor:
    """Take the norms by a forward and backward pass for each row."""
    return scores_one_by_one(model, answers).square().sum(dim=1)


def scores_one_by_one(model: Transformer, answers: Answers) -> Tensor:
    """Return the matrix of all scores, shape (U, d)."""
    trained = list(model.parameters())
    rows = []
    for u in range(len(answers)):
        total = log_probs(model, answers[u : u + 1], share_prompts=False).sum()
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(total, trained)]))
    return torch.stack(rows)


WAYS: dict[str, Callable[[Transformer, Answers], object]] = {
    "nothing": lambda model, answers: None,
    "forward + backward": forward_backward,
    "score_norms": score_norms,
    "score_gram": score_gram,
    "one by one": norms_one_by_one,
}


def times(tied: bool, repetitions: int) -> list[Row]:
    """Return the time of each way, all taking turns, and the ratio within a turn."""
    model, answers = case(ROWS, tied)
    ways = {name: partial(way, model, answers) for name, way in WAYS.items() if name != "nothing"}
    for way in ways.values():
        way()  # fills caches
    turns = [[median_time(way, 1, calls=1) for way in ways.values()] for _ in range(repetitions)]
    seconds = dict(zip(ways, np.transpose(turns), strict=True))
    name = _name(tied)
    found = [
        row("time", None, f"{way}, {name}", "ms", 1e3 * float(np.median(each)))
        for way, each in seconds.items()
    ]
    ratio = float(np.median(seconds["score_norms"] / seconds["forward + backward"]))
    return [*found, row("time ratio", None, f"norms, {name}", "×", ratio, LARGEST_TIME_RATIO)]


def memory(tied: bool) -> list[Row]:
    """Return what processes take beyond one that does nothing, and the ratio."""
    taken = {
        way: peak_memory(_PROCESS.format(way=way, tied=tied, rows=ROWS_IN_MEMORY))
        for way in ("nothing", "forward + backward", "score_norms")
    }
    taken = {way: peak - taken["nothing"] for way, peak in taken.items() if way != "nothing"}
    found = [row("memory", None, f"{way}, {_name(tied)}", "MB", mb) for way, mb in taken.items()]
    ratio = taken["score_norms"] / taken["forward + backward"]
    name = f"norms, {_name(tied)}"
    return [*found, row("memory ratio", None, name, "×", ratio, LARGEST_MEMORY_RATIO)]


def errors(tied: bool, dtype: torch.dtype) -> list[Row]:
    """Return the largest difference to autograd one by one, in units of the largest entry."""
    model, answers = case(ROWS_COMPARED, tied, dtype)
    norms, gram = score_norms(model, answers), score_gram(model, answers)
    scores = scores_one_by_one(model.double(), answers)
    right = scores @ scores.mT
    name = f"{_name(tied)}, {str(dtype).removeprefix('torch.')}"
    largest = {
        "norms": (norms - right.diagonal()).abs().max() / right.diagonal().max(),
        "products": (gram - right).abs().max() / right.abs().max(),
    }
    return [
        row("error", None, f"{what}, {name}", "", float(value), LARGEST_ERROR[dtype])
        for what, value in largest.items()
    ]


def rows(repetitions: int = 9) -> list[Row]:
    """Compare all ways, then time them."""
    found: list[Row] = []
    for tied in (False, True):
        found += [each for dtype in LARGEST_ERROR for each in errors(tied, dtype)]
        found += times(tied, repetitions) + memory(tied)
    return found


def table(results: pd.DataFrame) -> Table:
    """Lay out all results."""
    title = f"{ROWS} rows ({ROWS_IN_MEMORY} for memory) of {PROMPT + OUTPUT - 1} tokens"
    found = Table(
        title=f"{title}, {sum(p.numel() for p in case(1, False)[0].parameters())} weights"
    )
    for column in ("quantity", "way", "measured", "required", "verdict"):
        found.add_column(column)
    for entry in results.fillna("").to_dict(orient="records"):
        measured = f"{entry['value']:.3g} {entry['unit']}"
        found.add_row(
            entry["quantity"], entry["way"], measured, entry["required"], entry["verdict"]
        )
    return found


def _name(tied: bool) -> str:
    return "tied" if tied else "untied"


def main() -> None:
    """Run the benchmark from the command line."""
    torch.set_num_threads(1)
    results, console = pd.DataFrame(rows(), columns=pd.Index(COLUMNS)), Console()
    console.print(table(results.drop(columns="group_size")))
    missed = list(results["verdict"]).count("missed")
    console.print(f"{missed} missed" if missed else "all requirements met")


if __name__ == "__main__":
    ArgumentParser(prog="python -m benchmarks.score_norms", description=__doc__).parse_args()
    sys.exit(main())
