"""Many figures: what is missing is computed by a few processes, and what is ready is drawn."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from robust_npe.checks import ConfigError, require
from robust_npe.config import plain
from robust_npe.files import StoreError
from robust_npe.recipes.figures import FigureScript
from robust_npe.recipes.pool import Pool, compute, draw, outcome, redrawn
from robust_npe.recipes.recipe import Job, Recipe

__all__ = ["Runner", "draw_from", "scripts"]


def scripts(folder: Path) -> dict[str, tuple[Path, FigureScript]]:
    """Return path and figure of all scripts in a folder that draw one, by name."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        if "FIGURE = FigureScript(" in path.read_text():
            figure: FigureScript = runpy.run_path(str(path))["FIGURE"]
            found[figure.name] = (path, figure)
    return found


def draw_from(folder: Path, names: Sequence[str], tables: Path, output: Path) -> Iterator[Path]:
    """Draw figures of scripts from tables in a folder, as small PNG files, two at a time, and yield
    the files; without names, those that have tables there.

    Raises:
        ConfigError: There is no such figure.
        StoreError: There are no tables of it, or not the right ones; the others were drawn.
    """
    known = scripts(folder)
    names = names or [name for name in known if any(tables.glob(f"{name}_*.csv.gz"))]
    if not names:
        raise StoreError(f"there are no tables of figures in {tables}.")
    for name in names:
        require(name in known, "figure", name, f"one of {', '.join(known)}")
    yield from redrawn([known[name][0] for name in names], tables, output)


@dataclass
class _Task:
    """Something that a process does: a run, or (without a key) a drawing."""

    label: str
    function: Callable[..., str]
    arguments: tuple[object, ...]
    key: str = ""


@dataclass
class Runner:
    """Makes figures: computes each run that is not stored yet once, and draws.

    A figure is drawn as soon as its runs are there. What fails is told at the end; what does not
    need it goes on.

    Args:
        folder: Where the scripts are.
        names: Of the figures; empty for all.
        scale: As for `Recipe`, and so are the next two.
        output: Folder of runs, store and figures.
        overrides: Further overrides.
        seeds: As for `Recipe`.
        workers: Number of processes.

    Attributes:
        failures: What went wrong, one line each.
        computed: Number of runs that were computed.

    Raises:
        ConfigError: There is no such figure.
    """

    folder: Path
    names: Sequence[str] = ()
    scale: str = "laptop"
    output: Path = Path("outputs")
    overrides: Sequence[str] = ()
    seeds: int | None = None
    workers: int = 2
    failures: list[str] = field(default_factory=list)
    computed: int = 0

    def __post_init__(self) -> None:
        """Compose the sweeps; their jobs are composed as they come."""
        self.scripts = scripts(self.folder)
        self.names = self.names or list(self.scripts)
        for name in self.names:
            require(name in self.scripts, "figure", name, f"one of {', '.join(self.scripts)}")
        needs = {name: self.scripts[name][1].recipes for name in self.names}
        recipes = dict.fromkeys(recipe for needed in needs.values() for recipe in needed)
        made = [Recipe(name, *self._shared) for name in recipes]
        # neighbours in a sweep share a training: the other way round, no process waits for it
        self.jobs = {r.name: sorted(r.jobs, key=lambda job: job.words[::-1]) for r in made}
        self._left = {name: len(jobs) for name, jobs in self.jobs.items()}
        self._undrawn = {name: set(needed) for name, needed in needs.items()}
        self._waiting: dict[str, list[str]] = {}  # recipes by the run they wait for
        self._settled: set[str] = set()

    @property
    def _shared(self) -> tuple[str, Path, Sequence[str], int | None]:
        """What recipes and drawings are given."""
        return self.scale, self.output, self.overrides, self.seeds

    def listing(self) -> Iterator[str]:
        """Yield a line for each job: whether its run is stored, its identity, what it is."""
        for job in (job for jobs in self.jobs.values() for job in jobs):
            yield f"{'done' if job.run() else 'missing':<7} {job.run_id} {job}"

    def run(self) -> None:
        """Compute and draw."""
        total = sum(self._left.values()) + len(self.names)
        bar = tqdm(total=total, disable=not sys.stderr.isatty(), dynamic_ncols=True)
        running: dict[Future, _Task] = {}
        todo = self._missing(bar)
        with bar, Pool(self.workers, self.output / "logs" / "figures") as pool:
            while True:
                while len(running) < self.workers and (task := self._next(todo)):
                    bar.set_postfix_str(task.label)
                    running[pool.submit(task.function, *task.arguments)] = task
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    self._settle(running.pop(future), outcome(future), bar)

    def _next(self, todo: Iterator[_Task]) -> _Task | None:
        """Return what can be done now; drawing goes first."""
        return self._ready() or next(todo, None) or self._ready()

    def _ready(self) -> _Task | None:
        for name, needed in self._undrawn.items():
            if not any(self._left[recipe] for recipe in needed):
                del self._undrawn[name]
                return _Task(f"draw {name}", draw, (self.scripts[name][0], *self._shared))
        return None

    def _missing(self, bar: tqdm) -> Iterator[_Task]:
        """Yield the runs to compute, each once."""
        for recipe, job in ((name, job) for name, jobs in self.jobs.items() for job in jobs):
            key = self._key(job)
            if key in self._waiting:
                self._waiting[key].append(recipe)
            elif key in self._settled or not key or job.run():
                self._left[recipe] -= 1
                bar.update()
            else:
                self._waiting[key] = [recipe]
                yield _Task(str(job), compute, (str(job), plain(job.config)), key)

    def _key(self, job: Job) -> str:
        """Return the identity of a run, nothing if its configuration is wrong."""
        try:
            job.note()
        except ConfigError as error:
            self.failures.append(f"{job}: {error}")
            return ""
        return job.run_id

    def _settle(self, task: _Task, error: str, bar: tqdm) -> None:
        if error:
            self.failures.append(f"{task.label}: {error}")
        recipes = self._waiting.pop(task.key, [])
        bar.update(len(recipes) or 1)
        if task.key:
            self.computed += not error
            self._settled.add(task.key)
        for recipe in recipes:
            self._left[recipe] -= 1
