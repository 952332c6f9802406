"""The sweep that looks for Pareto fronts: clean NLL and KL under attack, both minimised."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from omegaconf import DictConfig, open_dict

from robust_npe.checks import ConfigError, require
from robust_npe.commands.experiment import Experiment
from robust_npe.store import content_key, read_table
from robust_npe.store.locks import InUseError, locked
from robust_npe.sweeps.jobs import DONE, FOUND, JobStatus, note, read_statuses
from robust_npe.sweeps.trials import SECTION, SearchSettings, Trials, open_journal, words_of
from robust_npe.sweeps.watch import SweepStarted, aligned

__all__ = ["search"]

Intervals = dict[str, tuple[float, float]]


def search(
    words: Sequence[str],
    settings: SearchSettings,
    load: Callable[[list[str]], DictConfig],
    launch: Callable[..., Any],
    sweep: str,
) -> None:
    """Run the trials that are missing, for each combination of the choices that are not searched.

    What became of a job is read from the file it leaves, and what it achieved from its results:
    so it may run wherever a launcher takes it.

    Args:
        words: Overrides; intervals are searched.
        settings: How much is searched.
        load: Returns the configuration of a job.
        launch: Runs jobs: lists of overrides, and the number of the first.
        sweep: The folder of the sweep.

    Raises:
        ConfigError: A setting is wrong; raised before any work is done.
    """
    combinations, intervals = _split(words)
    names = [_name(fixed, intervals, settings, load) for fixed in combinations]
    if len({*names}) < len(names):
        raise ConfigError("two of the combinations give the same results: leave one of them out.")
    try:
        with locked(Path(f"{settings.storage}.owner")) as require_hold:
            storage = open_journal(Path(settings.storage))
            searches = [Trials(name, intervals, settings, storage) for name in names]

            def launch_and_check(words: Sequence[Sequence[str]], first: int) -> None:
                launch(words, initial_job_idx=first)
                require_hold()

            pairs = list(zip(combinations, searches, strict=True))
            _run(pairs, settings, launch_and_check, Path(sweep))
    except InUseError as error:
        raise ConfigError(
            f"{SECTION}.storage={settings.storage!r} is used by another command: wait for it, or "
            "set another file."
        ) from error


def _run(
    searches: Sequence[tuple[list[str], Trials]],
    settings: SearchSettings,
    launch: Callable[[Sequence[Sequence[str]], int], None],
    sweep: Path,
) -> None:
    """Show what is finished, and run one batch of all searches after the other."""
    known = [(fixed, trial) for fixed, trials in searches for trial in trials.finished()]
    total = sum(max(settings.n_trials, len(t.study.trials)) for _, t in searches)
    if SweepStarted.watch is not None:
        SweepStarted.watch.expect([searches[0][0]] * total)
    for number, (fixed, trial) in enumerate(known):
        where = trial.user_attrs["where"]
        note(sweep / str(number), JobStatus(number, fixed + words_of(trial), FOUND, where=where))
    number = len(known)
    while batch := [(fixed, t, new) for fixed, t in searches for new in t.suggest()]:
        launch([fixed + words_of(new) for fixed, _, new in batch], number)
        statuses = read_statuses(sweep)
        for job, (_, trials, new) in enumerate(batch, number):
            status = statuses.get(job)
            if status is not None and status.state in (DONE, FOUND):
                trials.tell(new, objectives(Path(status.where), settings), status.where)
        number += len(batch)
    if SweepStarted.watch is not None:
        shared = set.intersection(*(set(fixed) for fixed, _ in searches))
        SweepStarted.watch.remarks += [
            _front([word for word in fixed if word not in shared], trials)
            for fixed, trials in searches
        ]


def objectives(folder: Path, settings: SearchSettings) -> tuple[float, float]:
    """Return what a run achieved, from its results: mean clean NLL and median divergence, nats.

    Args:
        folder: Of the run.
        settings: Radius and name of the divergence.

    Raises:
        ConfigError: The run did not measure one of them.
    """
    table = read_table(folder / "results.csv")
    clean = table[(table.attack == "none") & (table.metric == "nll") & (table.statistic == "mean")]
    attacked = table[(table.attack != "none") & (table.epsilon == settings.epsilon)]
    attacked = attacked[(attacked.metric == settings.quantity) & (attacked.statistic == "median")]
    for found, what in ((clean, "metric nll"), (attacked, f"{settings.quantity} under attack")):
        if found.empty:
            raise ConfigError(f"{folder} has no {what}: add to `metric` what measures it.")
    return float(clean.value.iloc[0]), float(attacked.value.iloc[0])


def _split(words: Sequence[str]) -> tuple[list[list[str]], Intervals]:
    """Return the combinations of what is not searched, and the ends of what is."""
    parsed = OverridesParser.create().parse_overrides(list(words))
    last = {override.get_key_element(): override for override in parsed}.values()
    intervals: Intervals = {}
    for override in last:
        if not isinstance(interval := override.value(), IntervalSweep):
            continue
        key, (low, high) = override.get_key_element(), (interval.start, interval.end)
        if low is None or high is None or not 0 <= low < high < math.inf:
            raise ConfigError(f"{key}=interval({low},{high}) is not valid: 0 <= low < high.")
        intervals[key] = low, high
    if not intervals:
        raise ConfigError("nothing is searched: set an interval, as in 'beta=interval(1e-4,1)'.")
    fixed = [override for override in last if override.get_key_element() not in intervals]
    (combinations,) = BasicSweeper.split_arguments(fixed, None)
    return combinations, intervals


def _name(
    fixed: list[str],
    intervals: Intervals,
    settings: SearchSettings,
    load: Callable[[list[str]], DictConfig],
) -> str:
    """Return the key of all that determines what a search finds, and check it.

    Where the search is and how long it goes on are no part of it: it can be continued.
    """
    ends = []
    for end in (0, 1):
        config = load([*fixed, *(f"{key}={both[end]:g}" for key, both in intervals.items())])
        with open_dict(config):
            del config["hydra"]  # some of it is known to a job alone
        device, config.device = config.device, "cpu"  # jobs may run where there are others
        experiment = Experiment(config)
        radii, measured = experiment.epsilons, experiment.metrics
        require(
            settings.epsilon in radii, f"{SECTION}.epsilon", settings.epsilon, f"one of {radii}"
        )
        require("nll" in measured, "metric", [*measured], "a list with nll")
        ends.append(experiment.run_description)
    if ends[0] == ends[1]:
        what = ", ".join(intervals)
        raise ConfigError(f"{what} changes nothing here: choose a defense, as in defense=fim.")
    about = {"quantity": settings.quantity, "epsilon": settings.epsilon, "seed": settings.seed}
    return content_key({"ends": ends, "device": device, "intervals": intervals, **about})


def _front(words: Sequence[str], trials: Trials) -> str:
    """Return the table of the trials of a search, called by its words, that no other one beats."""
    settings, front = trials.settings, trials.front()
    title = f"{len(front)} of {len(trials.finished())} trials are not dominated"
    title = f"{' '.join(words)}: {title}" if words else title
    divergence = f"{settings.quantity} at {settings.epsilon:g}"
    rows = [
        {
            "NLL": f"{trial.values[0]:.3f}",
            divergence: f"{trial.values[1]:.3g}",
            "overrides": " ".join(words_of(trial)),
            "where": trial.user_attrs["where"],
        }
        for trial in front
    ]
    return "\n".join([title, *([aligned(rows)] if rows else [])])
