"""Measure everything that `make bench` promises and print it; `--save` writes the CSV.

A requirement that is missed is printed as such and does not fail the run; a way that disagrees
with the exact law does, before anything is timed.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from benchmarks import measure
from benchmarks.agreement import disagreements
from benchmarks.plain import WAYS
from benchmarks.settings import Settings

REFERENCE = Path(__file__).parent / "reference.csv"


def run(settings: Settings, console: Console) -> pd.DataFrame:
    """Check that all ways agree with the laws, then time them.

    Raises:
        SystemExit: if a way disagrees.
    """
    import torch

    torch.set_num_threads(1)
    snapshot = settings.bandit().at(np.zeros(settings.num_prompts * settings.num_actions))
    wrong = list(disagreements(snapshot, list(settings.speed_ups)))
    if wrong:
        raise SystemExit("error: not timed, because\n" + "\n".join(wrong))
    console.print("all ways agree with the exact laws within 4 standard errors")
    rows: list[measure.Row] = []
    for group_size in settings.speed_ups:
        console.print(f"timing G = {group_size}")
        rows += measure.throughput(settings, snapshot, group_size)
    if {128, 4096} <= settings.speed_ups.keys():
        rows.append(measure.cost_ratio(settings, snapshot, 128, 4096))
    rows += measure.exact(settings)
    rows.append(measure.peak_memory(settings))
    return pd.DataFrame(rows, columns=pd.Index(measure.COLUMNS))


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


def limit_table(results: pd.DataFrame) -> Table:
    """Lay out everything else that is required."""
    table = Table(title="limits")
    for column in ("quantity", "G", "way", "measured", "required", "verdict"):
        table.add_column(column)
    limits = results.query("quantity not in ['throughput', 'speed-up']")
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
    results = run(settings, console)
    console.print(speed_table(results, settings), limit_table(results))
    missed = list(results["verdict"]).count("missed")
    console.print(f"{missed} missed" if missed else "all requirements met")
    if save:
        results.to_csv(REFERENCE, index=False, float_format="%.6g", lineterminator="\n")
        console.print(f"wrote {REFERENCE}")


if __name__ == "__main__":
    sys.exit(main())
