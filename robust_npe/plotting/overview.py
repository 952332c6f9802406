"""All plots of many runs, without ever pooling what is not comparable."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from robust_npe.plotting.coverage import coverage_plot
from robust_npe.plotting.style import save_figure
from robust_npe.plotting.tolerance import tolerance_plot

__all__ = ["comparable", "draw_overview"]

log = logging.getLogger(__name__)

CELL = ["task", "attack", "defense", "seed", "epsilon", "metric", "statistic", "level"]


def comparable(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Split results into parts whose runs differ in task, attack, defense and seed alone.

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
    table = table.assign(attack=attacks, defense=[_defense_label(*d) for d in _defenses(table)])
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

    Args:
        table: Tidy results of many runs.
        folder: Where the PNG files go.

    Returns:
        The files, in the order drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for label, part in comparable(table):
        for defense, rows in part.groupby("defense"):
            name = _file_name(f"{label}_{defense}")
            figures = {"tolerance": tolerance_plot(rows), "coverage": coverage_plot(rows)}
            for kind, figure in figures.items():
                paths.append(folder / f"{kind}_{name}.png")
                save_figure(figure, paths[-1])
        if part.defense.nunique() > 1:
            for attack in sorted(a for a in set(part.attack) if a.split(" ")[0] == "pgd"):
                suffix = attack.removeprefix("pgd")
                paths.append(folder / f"defenses_{_file_name(label + suffix)}.png")
                attacked = part[part.attack.isin([attack, "none"])]
                save_figure(tolerance_plot(attacked, compare="defense"), paths[-1])
    return paths


def _file_name(label: str) -> str:
    return label.replace("/", "-").replace(" ", "_")


def _defenses(table: pd.DataFrame) -> Iterator[tuple[str, float, float]]:
    return zip(table.defense, table.beta, table.defense_epsilon, strict=True)


def _defense_label(name: str, beta: float, epsilon: float) -> str:
    """Name of a defense with its settings, so that different ones are never averaged."""
    label = name
    if pd.notna(beta):
        label += f" beta={beta:g}"
    if pd.notna(epsilon):
        label += f" eps={epsilon:g}"
    return label
