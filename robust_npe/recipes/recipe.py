"""Recipes: the sweeps of conf/experiment, their jobs, and the stored runs these are."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from robust_npe.checks import require, require_positive_integer
from robust_npe.commands.experiment import Experiment
from robust_npe.commands.runs import stored_estimators
from robust_npe.files import StoreError, read_plain, write_atomically
from robust_npe.paths import config_directory
from robust_npe.recipes.composing import composed, sweep, swept
from robust_npe.store import (
    OBSERVATION_COLUMNS,
    RESULT_COLUMNS,
    Artefact,
    Store,
    content_key,
    read_table,
)

__all__ = ["SCALES", "Job", "Recipe", "code_digest", "require_options"]

SCALES = ("smoke", "laptop", "paper")


@lru_cache
def code_digest() -> str:
    """Return a hash of the package and its YAML files."""
    folders = {Path(__file__).parents[1], config_directory()}
    files = sorted(p for folder in folders for p in folder.rglob("*") if p.is_file())
    found = hashlib.sha256()
    for path in files:
        if path.parent.name != "__pycache__":
            found.update(str(path).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


class Job:
    """One run of a sweep: what it is called, what it computes, and where that is stored.

    Args:
        words: Overrides of `robust-npe train`, `output_dir` among them.

    Attributes:
        choices: The overrides as a mapping, e.g. `{"task": "sir", "defense": "published/fim"}`.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self.choices = dict(word.split("=", 1) for word in words)

    def __str__(self) -> str:
        hidden = ("experiment", "scale", "output_dir", "plots")
        shown = [word for word in self.words if word.split("=", 1)[0] not in hidden]
        return " ".join([self.choices.get("experiment", "train"), *shown])

    @cached_property
    def config(self) -> DictConfig:
        """The composed configuration."""
        return composed(self.words)

    @cached_property
    def experiment(self) -> Experiment:
        """What is to be computed; building it does no work."""
        return Experiment(self.config)

    @cached_property
    def run_id(self) -> str:
        """Identity of the run: a hash of everything that determines its results."""
        note = self._note
        if note.is_file():
            return read_plain(note, "note", max_bytes=16).decode()
        return self.experiment.run_id

    def note(self) -> None:
        """Keep the identity: composing and building hundreds of jobs takes a minute."""
        write_atomically(self._note, self.run_id.encode())

    @property
    def _note(self) -> Path:
        """The same code, YAML files and overrides always mean the same run."""
        name = content_key({"code": code_digest(), "words": self.words})
        return self.output / "store" / "jobs" / name

    @property
    def output(self) -> Path:
        """Folder of runs, store and figures."""
        return Path(self.choices.get("output_dir", "outputs"))

    def run(self) -> Artefact | None:
        """Return the finished run, None where there is none."""
        return Store(self.output).find("runs", self.run_id)

    def stored(self) -> Experiment:
        """Return the experiment of the finished run with its trained estimators: nothing is trained
        again, and what the run attacked is found by `commands.evaluation.perturbed`.

        Raises:
            StoreError: There is no such run.
            ConfigError: Its estimators are not in the store.
        """
        run = self.run()
        if run is None:
            raise StoreError(f"the run of {self} is missing.")
        store = self.experiment.store
        return Experiment(self.config, store, members=stored_estimators(store, run.path))


class Recipe:
    """A sweep in conf/experiment at one scale, and its runs.

    Args:
        name: Name of the file.
        scale: `smoke`, `laptop` or `paper`.
        output: Folder of runs and store.
        overrides: Further overrides, as on the command line.
        seeds: Number of seeds, where the recipe varies them and `overrides` do not choose any; None
            for that of the scale.

    Raises:
        ConfigError: There is no recipe or scale of this name, or no such output folder or number.
    """

    def __init__(
        self,
        name: str,
        scale: str = "laptop",
        output: Path | str = "outputs",
        overrides: Sequence[str] = (),
        seeds: int | None = None,
    ) -> None:
        files = (config_directory() / "experiment").glob("*.yaml")
        known = sorted(path.stem for path in files if path.stem != "common")
        require(name in known, "recipe", name, f"one of {', '.join(known)}")
        require_options(scale, output, seeds)
        self.name, self.scale, self.output = name, scale, Path(output)
        self.overrides, self.seeds = tuple(overrides), seeds

    @cached_property
    def words(self) -> list[str]:
        """What follows `robust-npe train -m`."""
        where = [] if self.output == Path("outputs") else [f"output_dir={self.output}"]
        words = [f"experiment={self.name}", f"scale={self.scale}", *where, *self.overrides]
        chosen = any(word.startswith("seed=") for word in self.overrides)
        if self.seeds is not None and not chosen and "seed" in swept(words):
            words.append(f"seed={','.join(map(str, range(self.seeds)))}")
        return words

    @property
    def command(self) -> str:
        """The command that makes its runs."""
        return f"robust-npe train -m {shlex.join(self.words)}"

    @cached_property
    def jobs(self) -> list[Job]:
        """All jobs, in the order in which the command does them."""
        return [Job(words) for words in sweep(self.words)]

    def missing(self) -> list[Job]:
        """Return the jobs whose runs are not stored."""
        return [job for job in self.jobs if job.run() is None]

    def table(self) -> pd.DataFrame:
        """Return the results of its runs, and of no others.

        Raises:
            StoreError: Some are missing; the message names the command that makes them.
        """
        return self._read("results", RESULT_COLUMNS)

    def observations(self) -> pd.DataFrame:
        """Return what its runs measured at each observation; errors as for `table`."""
        return self._read("observations", OBSERVATION_COLUMNS)

    def require_runs(self) -> dict[Job, Artefact]:
        """Return the finished run of each job; errors as for `table`."""
        runs = {job: job.run() for job in self.jobs}
        found = {job: run for job, run in runs.items() if run is not None}
        lacking = [job for job in runs if job not in found]
        if lacking:
            raise StoreError(
                f"{len(lacking)} of {len(runs)} runs are missing, such as that of {lacking[0]}; "
                f"first: {self.command}"
            )
        return found

    def _read(self, name: str, columns: Any) -> pd.DataFrame:
        runs = {run.key: run for run in self.require_runs().values()}  # jobs may be the same
        tables = [read_table(run.path / f"{name}.csv", columns) for run in runs.values()]
        return pd.concat(tables, ignore_index=True)


def require_options(scale: str, output: Path | str, seeds: int | None) -> None:
    """Refuse what no recipe can be run with; arguments as for `Recipe`.

    Raises:
        ConfigError: One of them is not valid.
    """
    plain = re.fullmatch(r"[A-Za-z0-9_./ +-]+", str(output)) is not None
    expected = "a path of letters, digits, spaces and _ . / + -, as it becomes an override"
    require(plain, "output", str(output), expected)
    require(scale in SCALES, "scale", scale, f"one of {', '.join(SCALES)}")
    require_positive_integer("seeds", seeds, or_null=True)
