"""Measure everything that `make bench` promises and print it; `--save` writes the CSV.

A requirement that is missed is printed as such and does not fail the run; a way that disagrees
with the exact law, or with the other ways, does, before anything is timed.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks import (
    gradient_error,
    measure,
    measure_optimization,
    noise,
    plain_optimization,
    score_norms,
)
from benchmarks.agreement import disagreements, optimization_disagreements
from benchmarks.plain import WAYS
from benchmarks.settings import Settings
from benchmarks.timing import COLUMNS, Row

REFERENCE = Path(__file__).parent / "reference.csv"
TABULATED = ["throughput", "speed-up", "optimisation throughput", "optimisation speed-up"]


def run(settings: Settings, console: Console) -> pd.DataFrame:
    """Check that all ways agree with the laws and with each other, then time them.

    Raises:
        SystemExit: if a way disagrees.
    """
    import torch

    torch.set_num_threads(1)
    snapshot = settings.bandit().at(np.zeros(settings.num_prompts * settings.num_actions))
    ascents = [settings.ascent(size) for size in settings.optimization_group_sizes]
    wrong = list(disagreements(snapshot, list(settings.speed_ups), settings.checked_replicates))
    wrong += optimization_disagreements(ascents, settings.checked_runs)
    if wrong:
        raise SystemExit("error: not timed, because\n" + "\n".join(wrong))
    console.print("all ways agree, with the exact laws or each other, within 4 standard errors")
    rows: list[Row] = []
    for group_size in settings.speed_ups:
        console.print(f"timing G = {group_size}")
        rows += measure.throughput(settings, snapshot, group_size)
    if {128, 4096} <= settings.speed_ups.keys():
        rows.append(measure.cost_ratio(settings, snapshot, 128, 4096))
    rows += measure.exact(settings)
    rows.append(measure.peak_memory(settings))
    for group_size in settings.optimization_group_sizes:
        console.print(f"timing Algorithm 1, G = {group_size}")
        rows += measure_optimization.throughput(settings, group_size)
    rows.append(measure_optimization.peak_memory(settings))
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS))


def language(console: Console) -> pd.DataFrame:
    """Time score norms, noise of a batch, and the gradient-error figure of language models."""
    console.print("timing score norms, noise of a batch, and the figure of language models")
    rows = [*score_norms.rows(), *noise.rows(), *gradient_error.rows()]
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS))


def speed_table(results: pd.DataFrame, settings: Settings) -> Table:
    """Lay out replicates per second, one row a group size."""
    table = Table(
        title=f"replicates/s, {settings.num_prompts} prompts × {settings.num_actions} actions, "
        "three estimators"
    )
    for column in ("G", *WAYS, "gradient_mse", "ratio", "required", "verdict"):
        table.add_column(column.replace("_", "\n"), justify="right")
    for group_size in settings.speed_ups:
        rows = results.query(f"group_size == {group_size}")
        rates = rows.query("quantity == 'throughput'").set_index("way")["value"]
        ratio = rows.query("quantity == 'speed-up'").iloc[0]
        table.add_row(
            f"{group_size:g}",
            *(f"{rates[way]:,.0f}" for way in (*WAYS, "gradient_mse")),
            f"{ratio['value']:.1f}",
            ratio["required"],
            ratio["verdict"],
        )
    return table


def optimization_table(results: pd.DataFrame, settings: Settings) -> Table:
    """Lay out run-iterations per second of Algorithm 1, one row a plain way and group size."""
    table = Table(title=f"run-iterations/s, GRPO, {settings.budget} outputs each")
    for column in ("G", "way", "its rate", "optimize", "ratio", "required", "verdict"):
        table.add_column(column, justify="right")
    for group_size in settings.optimization_group_sizes:
        rows = results.query(f"group_size == {group_size}").set_index("way")
        rates = rows.query("quantity == 'optimisation throughput'")["value"]
        ratios = rows.query("quantity == 'optimisation speed-up'")
        for way in plain_optimization.WAYS:
            ratio = ratios.loc[f"over {way}"]
            table.add_row(
                f"{group_size:g}",
                way,
                f"{rates[way]:,.0f}",
                f"{rates['optimize']:,.0f}",
                f"{ratio['value']:.1f}",
                ratio["required"],
                ratio["verdict"],
            )
    return table


def limit_table(results: pd.DataFrame) -> Table:
    """Lay out everything else that is required."""
    table = Table(title="limits")
    for column in ("quantity", "G", "way", "measured", "required", "verdict"):
        table.add_column(column)
    limits = results.query(f"quantity not in {TABULATED}").dropna(subset=["required"])
    for row in limits.to_dict(orient="records"):
        size = "" if pd.isna(row["group_size"]) else f"{row['group_size']:g}"
        measured = f"{row['value']:.3g} {row['unit']}"
        table.add_row(row["quantity"], size, row["way"], measured, row["required"], row["verdict"])
    return table


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--save", action="store_true", help=f"write {REFERENCE.name}")
    save = parser.parse_args(arguments).save
    console, settings = Console(), Settings()
    results = pd.concat([run(settings, console), language(console)], ignore_index=True)
    results = results.astype({"group_size": "Int64"})  # some rows have none
    if save:
        results.to_csv(REFERENCE, index=False, float_format="%.6g", lineterminator="\n")
        console.print(f"wrote {REFERENCE}")
    console.print(speed_table(results, settings), optimization_table(results, settings))
    console.print(limit_table(results))
    missed = list(results["verdict"]).count("missed")
    console.print(f"{missed} missed" if missed else "all requirements met")


if __name__ == "__main__":
    sys.exit(main())
