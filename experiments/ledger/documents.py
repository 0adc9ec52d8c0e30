"""Tables in Markdown, and what the documents quote of runs: minutes, speeds, a plan."""

import re
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pandas as pd

from ustat_grpo.command_line import main

BENCHMARKS = Path(__file__).parents[2] / "benchmarks" / "reference.csv"


def replace_block(text: str, name: str, block: str) -> str:
    """Replace what stands between the markers of a generated block.

    Raises:
        ValueError: if the text has no such markers.
    """
    pattern = rf"(<!-- {name}: generated -->\n).*?(<!-- {name}: end -->)"
    replaced, count = re.subn(pattern, lambda m: m[1] + block + "\n" + m[2], text, flags=re.S)
    if count != 1:
        raise ValueError(f"text must hold the generated block {name!r} once, got {count}")
    return replaced


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; a bar inside a cell is escaped."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines
    )


def console(commands: Sequence[str]) -> str:
    """Return commands as a block that can be copied."""
    lines = "\n".join(f"$ {command}" for command in commands)
    return f"```console\n{lines}\n```"


def heading_anchor(heading: str) -> str:
    """Return the name by which a heading is linked to, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def document_blocks(minutes: dict[str, float]) -> dict[str, dict[str, str]]:
    """The generated blocks of every document, by name: measured minutes and speeds, a plan."""
    printed = sample_plan()
    verdict, _, _ = printed.partition("without a baseline")
    return {
        "README.md": _measured(minutes) | {"verdict": f"```text\n{verdict}```"},
        "docs/planner.md": {"plan": f"```text\n{printed}```"},
    }


def _measured(minutes: dict[str, float]) -> dict[str, str]:
    commands = [
        ["`make run`", "experiments on the smoke scale, figures", f"{minutes['run'] / 60:.1f}"],
        ["`make test`", "the fast tests", f"{minutes['test'] / 60:.1f}"],
    ]
    return {
        "minutes": markdown(["command", "what it does", "minutes on two cores"], commands),
        "speed": _speed(pd.read_csv(BENCHMARKS)),
        "runs": _speed_of_runs(pd.read_csv(BENCHMARKS)),
        "language": _cost_of_scores(pd.read_csv(BENCHMARKS)),
    }


def sample_plan() -> str:
    """What `ustat-grpo plan` prints of the sample in docs/."""
    printed, sample = StringIO(), Path(__file__).parents[2] / "docs" / "sample_outputs.csv"
    with redirect_stdout(printed):
        main(["plan", str(sample), "--budget", "512"])
    return printed.getvalue()


def _speed(measured: pd.DataFrame) -> str:
    """Throughput by group size, one column a way, and the ratio to the best plain one."""
    throughput = measured.query("quantity == 'throughput'")
    wide = throughput.pivot(index="group_size", columns="way", values="value")
    ratios = measured.query("quantity == 'speed-up'").set_index("group_size")["value"]
    ways = list(dict.fromkeys(throughput["way"]))
    rows = [
        [f"{size:.0f}", *(f"{rates[way]:,.0f}" for way in ways), f"{ratios[size]:.0f}×"]
        for size, rates in wide.iterrows()
    ]
    ways = [f"`{way}`" for way in ways]
    return markdown(["G", *ways, "over the best plain way"], rows)


def _speed_of_runs(measured: pd.DataFrame) -> str:
    """Run-iterations per second of Algorithm 1 by group size, and the ratio to each plain way."""
    throughput = measured.query("quantity == 'optimisation throughput'")
    wide = throughput.pivot(index="group_size", columns="way", values="value")
    ratios = measured.query("quantity == 'optimisation speed-up'")
    ratios = ratios.pivot(index="group_size", columns="way", values="value")
    plain = [way for way in dict.fromkeys(throughput["way"]) if way != "optimize"]
    rows = [
        [
            f"{size:.0f}",
            *(f"{rates[way]:,.0f} ({ratios.loc[size, f'over {way}']:.1f}×)" for way in plain),
            f"{rates['optimize']:,.0f}",
        ]
        for size, rates in wide.iterrows()
    ]
    return markdown(["G", *(f"`{way}`" for way in plain), "`optimize`"], rows)


def _cost_of_scores(measured: pd.DataFrame) -> str:
    """Time and memory of score norms, and the speed of the language models' figure."""
    what = {
        "time ratio": "time over a forward and backward pass",
        "memory ratio": "memory over a forward and backward pass",
        "language speed-up": "gradient-error figure from one pool",
    }
    rows = [
        [what[row["quantity"]], row["way"], f"{row['value']:.2f}×", row["required"]]
        for row in measured.to_dict(orient="records")
        if row["quantity"] in what
    ]
    return markdown(["quantity", "of", "measured", "promised"], rows)
