"""All plots of many runs, without ever pooling what is not comparable."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from robust_npe.plotting.cells import NothingToDrawError
from robust_npe.plotting.coverage import coverage_plot
from robust_npe.plotting.names import named_defenses
from robust_npe.plotting.saving import save_figure
from robust_npe.plotting.tolerance import tolerance_plot

__all__ = ["comparable", "draw_overview"]

log = logging.getLogger(__name__)

CELL = ["task", "attack", "defense", "seed", "data_seed", "epsilon", "metric", "statistic", "level"]


def comparable(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Split results into parts whose runs differ in task, attack, defense and seeds alone.

    Names of attacks and defenses get their settings, so that different ones are never averaged.
    Where several runs measured the same cell (with settings that no column tells, such as the
    number of epochs), the newest counts.

    Args:
        table: Tidy results, newest runs last.

    Yields:
        A label that can stand in a file's name, and the rows of the part: those of its attacks and
        the clean rows of the same runs.
    """
    attacks = (table.attack + " " + table.attack_settings).str.strip()
    table = named_defenses(table).assign(attack=attacks)
    runs = table[table.attack != "none"].drop_duplicates("run_id")
    settings = ["estimator", "num_simulations", "norm", "epsilon_unit", "domain"]
    for (estimator, count, norm, unit, domain), setting in runs.groupby(settings):
        # the noise baseline has no objective: it belongs to every objective of its setting
        for objective in sorted(set(setting.objective) - {""}) or [""]:
            chosen = setting[setting.objective.isin([objective, ""])].run_id
            part = table[table.run_id.isin(chosen)]
            words = (estimator, f"n{count}", norm, unit, domain, objective)
            yield "_".join(str(w) for w in words if w), _newest(part)


def _newest(part: pd.DataFrame) -> pd.DataFrame:
    newest = part.drop_duplicates(CELL, keep="last")
    if len(newest) < len(part.drop_duplicates([*CELL, "value"])):
        log.warning("several runs measured the same with different settings: the newest is drawn")
    return newest


def draw_overview(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw tolerance plots (by attack and by defense) and coverage plots of all parts.

    What the runs did not measure is not drawn, with a warning for each metric that is missing.

    Args:
        table: Tidy results of many runs.
        folder: Where the PNG files go.

    Returns:
        The files, in the order drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths, missing = [], dict[str, list[str]]()
    for name, plot in _plots(table):
        try:
            figure = plot()
        except NothingToDrawError as error:
            missing.setdefault(str(error), []).append(name)
            continue
        paths.append(folder / f"{name}.png")
        save_figure(figure, paths[-1])
    for reason, names in missing.items():
        log.warning("not drawn, as there are %s: %s", reason, ", ".join(names))
    if not paths and not missing:
        log.warning("nothing is drawn: the runs attacked nothing")
    return paths


def _plots(table: pd.DataFrame) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Yield the name of each plot and a function that draws it."""
    for label, part in comparable(table):
        for defense, rows in part.groupby("defense"):
            name = _file_name(f"{label}_{defense}")
            yield f"tolerance_{name}", partial(tolerance_plot, rows)
            yield f"coverage_{name}", partial(coverage_plot, rows)
        if part.defense.nunique() > 1:
            for attack in sorted(a for a in set(part.attack) if a.split(" ")[0] == "pgd"):
                attacked = part[part.attack.isin([attack, "none"])]
                name = _file_name(label + attack.removeprefix("pgd"))
                yield f"defenses_{name}", partial(tolerance_plot, attacked, compare="defense")


def _file_name(label: str) -> str:
    return label.replace("/", "-").replace(" ", "_")
