"""`robust-npe train`: simulate, train, attack, measure, write tables and plots."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from robust_npe.commands.evaluation import evaluate
from robust_npe.commands.experiment import Experiment
from robust_npe.commands.summary import summary
from robust_npe.commands.trained import HISTORY
from robust_npe.commands.words import typed
from robust_npe.files import write_atomically
from robust_npe.metrics.soundness import OF_PGD, flags
from robust_npe.store import RESULT_COLUMNS, Artefact, Store, read_table
from robust_npe.training import read_history

__all__ = ["Result", "main", "run"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What a command returns.

    Attributes:
        table: The tidy results.
        folder: Where they are.
        text: What to show at the end.
        created: Whether anything had to be computed.
    """

    table: pd.DataFrame
    folder: Path
    text: str
    created: bool = True


def main(config: DictConfig) -> Result:
    """Run one experiment, or find its results if it was run before.

    Args:
        config: Composed configuration, see `conf/train.yaml`.

    Raises:
        ConfigError: A setting is wrong; raised before any work is done.
    """
    return run(Experiment(config), typed("train"))


def run(experiment: Experiment, command: Sequence[str] = ()) -> Result:
    """As `main`, for an experiment that was built before.

    Args:
        experiment: What to do.
        command: The words of the training that it is from, which are kept with the run.
    """
    description = experiment.run_description
    run_id = experiment.run_id
    runs = Store(experiment.config["output_dir"])
    artefact = runs.get(
        "runs",
        description,
        lambda folder: _make(folder, experiment, run_id, command),
        resumable=True,
    )
    if not artefact.created:
        log.info("this run was done before: nothing to compute")
    table = read_table(artefact.path / "results.csv", RESULT_COLUMNS)
    if experiment.config["plots"]:
        _draw(table, artefact.path)
        _draw_training(experiment.store, artefact)
    text = f"{summary(table)}\n\n{_listing(artefact)}"
    return Result(table, artefact.path, text, artefact.created)


def _make(
    folder: Path, experiment: Experiment, run_id: str, command: Sequence[str]
) -> dict[str, list[str]]:
    experiment.auto  # noqa: B018 - a unit that does not follow fails before training
    trained = experiment.trained()
    found = set(flags(evaluate(experiment, trained, run_id, folder))) - {OF_PGD}
    if found:
        log.warning("%d flag(s) say not to trust the attack's result: see the end", len(found))
    text = OmegaConf.to_yaml(OmegaConf.create(experiment.config))
    write_atomically(folder / "config.yaml", text.encode())
    estimators = [artefact.key for artefact in trained.artefacts]
    return {"estimators": estimators, "command": list(command)}


def _draw(table: pd.DataFrame, folder: Path) -> None:
    """Draw the plots that are not there yet and that the table has data for."""
    names = ["tolerance", "coverage"]
    if table.metric.str.startswith("minimal_radius").any():  # off by default
        names.append("broken")
    missing = [name for name in names if not (folder / f"{name}.png").exists()]
    if not missing:
        return
    from robust_npe.plotting import (  # slow to import
        NothingToDrawError,
        broken_plot,
        coverage_plot,
        save_figure,
        tolerance_plot,
    )

    plots: list[tuple[str, Callable[[pd.DataFrame], Any]]] = [
        ("tolerance", tolerance_plot),
        ("coverage", coverage_plot),
        ("broken", broken_plot),
    ]
    for name, plot in plots:
        try:
            if name in missing:
                save_figure(plot(table), folder / f"{name}.png")
        except NothingToDrawError as error:
            log.info("no %s.png: there are %s", name, error)


def _draw_training(store: Store, run: Artefact) -> None:
    """Draw how the networks were trained, unless that is there, or not known: of older ones."""
    path = run.path / "training.png"
    found = [store.find("estimators", key) for key in run.manifest["facts"].get("estimators", ())]
    tables = [a.path / HISTORY for a in found if a is not None]
    if path.exists() or not tables or not all(table.is_file() for table in tables):
        return
    from robust_npe.plotting import save_figure, training_plot  # slow to import

    save_figure(training_plot([read_history(table) for table in tables]), path)


def _listing(artefact: Artefact) -> str:
    files = sorted(p for p in artefact.path.iterdir() if p.name != "manifest.json")
    return "\n".join(["wrote:" if artefact.created else "found:", *(f"  {p}" for p in files)])
