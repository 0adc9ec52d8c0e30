"""An experiment as the front door knows it: a configuration in, one CSV out.

A job's folder is named by its own configuration. Its data appear there in one atomic step, beside
the composed configuration and the provenance; a job whose data are there, whole and of today's code
and input files, is skipped. So the command that started a sweep also resumes it.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import hydra
import pandas as pd
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from experiments.running import records
from experiments.running.commands import (
    as_overrides,
    described,
    ends_in_one_line,
    refused,
    with_own_errors,
)
from experiments.running.records import Origin
from experiments.running.runner import (
    digest,
    own_folders,
    provenance,
    require_writable,
    to_csv,
    write_atomically,
)
from ustat_grpo.compiled import thread_limit


def _snapshots(config: object) -> object:
    """Build the policies of the task, which does so when it is asked for them, if there is one."""
    task: Any = getattr(config, "task", None)
    return None if task is None else task.snapshots


@dataclass(frozen=True)
class App:
    """An experiment with what is asked of each.

    Making one stores the schema, so that `experiments/conf/NAME.yaml` can build on NAME_schema.

    Args:
        name: the first folder below `output`, and the name of its YAML.
        schema: the dataclass of its configuration, which checks the ranges.
        run: computes the table from the checked configuration; if `keeps_parts`, also from a folder
            where a long job keeps the tables of its parts.
        describe: the readable part of the name of a job's folder.
        prepare: builds what may turn out impossible, before anything is written; by default the
            `snapshots` of the task, and nothing where the schema has no task.
        report: prints what a finished table says, if that is asked from the command line.
        keeps_parts: whether `run` takes the folder of parts.
    """

    name: str
    schema: type
    run: Callable[..., pd.DataFrame]
    describe: Callable[[Any], str]
    prepare: Callable[[Any], object] = _snapshots
    report: Callable[[pd.DataFrame], None] | None = None
    keeps_parts: bool = False

    def __post_init__(self) -> None:
        ConfigStore.instance().store(name=f"{self.name}_schema", node=self.schema)

    @property
    def module(self) -> str:
        """The module whose imports are all the code that computes its numbers."""
        return self.run.__module__

    @property
    def summary(self) -> str:
        """What it does, in a line."""
        return (sys.modules[self.module].__doc__ or "").partition("\n")[0]

    def folder(self, config: DictConfig) -> Path:
        """Return the folder of a job's results."""
        job = f"{self.describe(OmegaConf.to_object(config))}_{digest(config)}"
        return Path(config.output) / self.name / config.scale.name / job

    def execute(self, config: DictConfig) -> Path:
        """Run one job unless its data exist, and return the path of its CSV.

        Raises:
            ValueError: if the configuration is out of range, the output folder is not writable, or
                the job was finished by other code or with other input files and it is not said what
                to do.
            OSError: if data can be neither read nor written.
        """
        checked: Any = OmegaConf.to_object(config)
        records.require_choice(checked.stale)
        folder = self.folder(config)
        data_path = folder / records.DATA
        if self._is_finished(folder, checked.stale):
            return data_path
        self.prepare(checked)
        with own_folders(folder):
            require_writable(folder)
            origin = Origin.of(self.module, checked)
            started = time.perf_counter()
            made = self.compute(checked, folder / "runs")
            seconds = time.perf_counter() - started
            data = to_csv(made)
            origin.require_unchanged()
            record = provenance(seconds) | records.record_of(origin, data, checked)
            write_atomically(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
            write_atomically(folder / records.RECORD, json.dumps(record, indent=2) + "\n")
            write_atomically(data_path, data)
        print(f"{self.name}: {data_path} written after {seconds:.1f} s")
        return data_path

    def compute(self, checked: Any, parts: Path) -> pd.DataFrame:
        """Return the table of a checked configuration, on as many threads as it allows.

        Args:
            checked: the configuration.
            parts: where the tables of parts are kept, of jobs that keep them.
        """
        with thread_limit(getattr(checked, "threads", None)):
            return self.run(checked, parts) if self.keeps_parts else self.run(checked)

    def main(self, arguments: Sequence[str]) -> None:
        """Do what `python -m experiments NAME` does with the overrides and options after NAME.

        A mistake of the user becomes one line on stderr and exit code 2, and so does a run that
        diverged: its learning rate was too large. What the disk refuses is one line, too, and exit
        code 1. In a sweep the line is left to Hydra, so that the other jobs still run.
        """
        where = {"config_path": "pkg://experiments.conf", "config_name": self.name}
        run = hydra.main(version_base="1.3", **where)(self.job)
        called = [f"python -m experiments {self.name}", *self._named(as_overrides(arguments))]
        with ends_in_one_line(), mock.patch.object(sys, "argv", called):
            with_own_errors(run)

    def _named(self, arguments: list[str]) -> list[str]:
        """Tell Hydra the name, beside the first override: it takes no options between them."""
        found = (place for place, each in enumerate(arguments) if not each.startswith("-"))
        place = next(found, len(arguments))
        return [*arguments[:place], f"hydra.job.name={self.name}", *arguments[place:]]

    def job(self, config: DictConfig) -> None:
        """Do one job of `main`, for which Hydra has composed the configuration.

        Raises:
            SystemExit: with 2 after a mistake of the user, with 1 where the disk refuses.
        """
        try:
            path = self.execute(config)
            if self.report is not None:
                self.report(pd.read_csv(path))
        except (ValueError, FloatingPointError, MissingMandatoryValue) as error:
            missing = isinstance(error, MissingMandatoryValue)
            what = f"{error.full_key} must be given" if missing else str(error)
            if _is_in_a_sweep():
                raise CompactHydraException(f"error: {what}") from None
            print(f"error: {what}", file=sys.stderr)
            raise SystemExit(2) from None
        except OSError as error:
            if _is_in_a_sweep():
                raise CompactHydraException(f"error: {described(error)}") from None
            raise refused(error) from None

    def _is_finished(self, folder: Path, stale: str) -> bool:
        """Say whether a job's data are there to be taken, in a line where they are there at all.

        Raises:
            ValueError: if they are stale and it is not said what to do.
        """
        path, (state, reason) = folder / records.DATA, records.examine(folder)
        if state == records.STALE and stale == records.REFUSE:
            raise ValueError(
                f"{path} must be of today's code and input files, but {reason}: --stale runs the "
                "job again, --keep-stale takes it as it is"
            )
        if state == records.WHOLE:
            print(f"{self.name}: {path} exists, skipped")
        elif state == records.STALE and stale == records.KEEP:
            print(f"{self.name}: {path} exists, skipped; it {reason}")
        elif state != records.MISSING:
            print(f"{self.name}: {path} {reason}, computed anew")
            return False
        return state != records.MISSING


def _is_in_a_sweep() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
