"""Defenses compared at equal likelihood and at equal cost of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure, SubFigure

from robust_npe.plotting.cells import (
    MARKS,
    NothingToDrawError,
    cells,
    marks_note,
    require_one_setting,
)
from robust_npe.plotting.layout import (
    Part,
    add_legend,
    figure_of,
    label_axes,
    rows_of,
    task_panels,
)
from robust_npe.plotting.lines import log_ticks, looks_of
from robust_npe.plotting.names import in_paper_order, line_name, named_defenses
from robust_npe.plotting.style import COLORS, Look

__all__ = ["cost_plot", "front_plot", "outcomes", "tradeoff_part", "tradeoff_plot"]

DEFENSE = ["defense", "beta", "defense_epsilon", "defense_settings"]
STRENGTH = ["beta", "defense_epsilon", "settings"]
SEEDS = ["seed", "data_seed"]
NLL = "clean negative log likelihood above no defense, nats"
SPREAD = "Points: means over {} seeds; whiskers: their range."
SYMMETRIC_TICKS = (-10, -2, -0.5, -0.2, 0, 0.5, 2, 10, 50, 200)
EXPENSIVE = 0.5  # nats of likelihood


def outcomes(table: pd.DataFrame, epsilon: float, metric: str = "kl_forward") -> pd.DataFrame:
    """Return what each training of each defense gained and what it cost.

    Args:
        table: Results of one attack, with undefended runs of the same seeds.
        epsilon: Radius of the attack.
        metric: Divergence.

    Returns:
        One row for each task, defense with its settings, and seeds: `kl`, the median under attack;
        `nll`, the clean mean; `seconds` of training, NaN where the table has none; the three
        without defense, `kl_none`, `nll_none`, `seconds_none`; what speaks against the row.

    Raises:
        NothingToDrawError: The table lacks the divergence at this radius, or undefended runs.
        ValueError: The table mixes settings other than those of defenses.
    """
    rows = cells(table, [metric, "nll", "training"])
    rows = rows[(rows.attack == "none") | (rows.epsilon == epsilon)]
    require_one_setting(rows[rows.attack != "none"], f"epsilon {epsilon:g}", but=DEFENSE)
    rows = named_defenses(rows).assign(family=rows.defense)
    keys = ["task", "defense", *SEEDS]
    found: dict[str, pd.Series] = {}
    wanted = {"kl": (metric, "median"), "nll": ("nll", "mean"), "seconds": ("training", "seconds")}
    for name, (which, statistic) in wanted.items():
        part = rows[(rows.metric == which) & (rows.statistic == statistic)]
        part = part[(part.attack != "none") == (name == "kl")]
        found[name] = part.set_index(keys).value
    if found["kl"].empty:
        raise NothingToDrawError(f"no rows with metric {metric} at radius {epsilon:g}")
    runs = pd.DataFrame(found).dropna(subset=["kl", "nll"]).reset_index()
    plain = runs[runs.defense == "none"].drop(columns="defense")
    runs = runs.merge(plain, "left", on=["task", *SEEDS], suffixes=("", "_none"))
    if runs.nll_none.isna().any():
        lost = runs[runs.nll_none.isna()].iloc[0]
        raise NothingToDrawError(f"no undefended runs of {lost.task}, seed {lost.seed}")
    settings = rows.groupby(keys)[["family", *DEFENSE[1:]]].first()
    against = rows.groupby(keys)[[*MARKS]].any()
    return runs.join(settings, on=keys).join(against, on=keys)


def front_plot(table: pd.DataFrame, epsilon: float, metric: str = "kl_forward") -> Figure:
    """Draw divergence under attack against likelihood lost, one line per defense over its strength.

    A trivial estimator is perfectly robust: defenses can only be compared at equal likelihood.

    Args:
        table: As in `outcomes`.
        epsilon: Radius of the attack.
        metric: Divergence.
    """
    runs = outcomes(table, epsilon, metric)
    runs = runs.assign(x=runs.nll - runs.nll_none, y=runs.kl)
    labels = NLL, f"KL under attack at radius {epsilon:g}, nats"
    return figure_of([_fronts_part(runs, labels, _symmetric)])


def cost_plot(table: pd.DataFrame, epsilon: float, metric: str = "kl_forward") -> Figure:
    """Draw how many times smaller a defense makes the divergence, against how many times longer
    its training takes.

    Args:
        table: As in `outcomes`, with `seconds` of the trainings.
        epsilon: Radius of the attack.
        metric: Divergence.
    """
    runs = outcomes(table, epsilon, metric)
    if runs.seconds.isna().all():
        raise NothingToDrawError("no rows with metric training and statistic seconds")
    runs = runs.assign(
        x=runs.seconds / runs.seconds_none,
        y=runs.kl_none / runs.kl,
        hollow=runs.nll - runs.nll_none > EXPENSIVE,
    )
    labels = (
        "training time, relative to no defense",
        f"KL without defense / with defense,\nradius {epsilon:g}",
    )
    note = f"Hollow: costs more than {EXPENSIVE:g} nats of clean likelihood."
    return figure_of([_fronts_part(runs, labels, _logarithmic, [note])])


def _fronts_part(
    runs: pd.DataFrame,
    labels: tuple[str, str],
    scale: Callable[[Axes, pd.Series], None],
    notes: list[str] | None = None,
) -> Part:
    looks, tasks = looks_of(runs.assign(defense=runs.family), "defense"), in_paper_order(runs.task)

    def draw(place: SubFigure) -> list[str]:
        for task, axes in task_panels(place, tasks).items():
            own = runs[runs.task == task]
            axes.set_yscale("log")
            scale(axes, own.x)
            plain = own[own.family == "none"].y.mean()
            axes.axhline(plain, color="0.7", linewidth=0.7, zorder=0)
            for family, look in looks.items():
                _draw_front(axes, own[own.family == family], look, line_name("defense", family))
            axes.set_ylim(own.y.min() / 1.6, own.y.max() * 1.6)
            log_ticks(axes)
        label_axes(place, *labels)
        add_legend(part, place, place.axes)
        return [*_strengths(runs), *_seeds(runs), *(notes or []), *marks_note(runs)]

    legend = [line_name("defense", family) for family in looks]
    part = Part(draw, 52.0 * rows_of(len(tasks)) + 6, legend, narrow=len(tasks) == 1)
    return part


def _draw_front(axes: Axes, runs: pd.DataFrame, look: Look, label: str) -> None:
    """The strengths of one defense, from weak (small) to strong (large)."""
    points = _means(runs)
    if points.empty:
        return
    x, y = points.x, points.y
    axes.plot(x, y, color=look.color, linewidth=0.9, alpha=0.8)
    for size, (_, point) in zip(np.linspace(3, 6, len(points)), points.iterrows(), strict=True):
        face = "white" if point.get("hollow", False) else look.color
        axes.errorbar(
            point.x,
            point.y,
            **_whiskers(point),
            color=look.color,
            elinewidth=0.6,
            marker=look.marker,
            markersize=size,
            markerfacecolor=face,
            markeredgewidth=0.7,
        )
        axes.annotate(
            point.mark, (point.x, point.y), (2, 2), textcoords="offset points", fontsize=7
        )
    style: dict[str, Any] = {"color": look.color, "marker": look.marker, "markersize": 4}
    axes.plot([], [], label=label, linewidth=0.9, **style)


def _means(runs: pd.DataFrame) -> pd.DataFrame:
    """One row for each setting of a defense: means over seeds and their range."""
    strength = runs.assign(settings=runs.defense_settings.fillna(""))
    groups = strength.groupby(STRENGTH, dropna=False)
    points = groups[["x", "y"]].mean()
    for name in ("x", "y"):
        points[f"{name}_least"], points[f"{name}_most"] = groups[name].min(), groups[name].max()
    if "hollow" in runs:
        points["hollow"] = groups.hollow.mean() > 0.5
    against = groups[[*MARKS]].any()
    points["mark"] = [
        "".join(mark for name, (mark, _) in MARKS.items() if row[name])
        for _, row in against.iterrows()
    ]
    return points.reset_index().sort_values(STRENGTH, na_position="first")


def _seeds(runs: pd.DataFrame) -> list[str]:
    count = len(runs[SEEDS].drop_duplicates())
    return [SPREAD.format(count)] if count > 1 else []


def _strengths(runs: pd.DataFrame) -> list[str]:
    """What changes along the lines, for the caption."""
    notes = ["Along a line a defense gets stronger, and markers larger:"]
    for family, own in runs.groupby("family", sort=False):
        for column, what in (("beta", "β"), ("defense_epsilon", "training radius")):
            values = sorted(own[column].dropna().unique())
            if len(values) > 1:
                each = ", ".join(f"{value:g}" for value in values)
                notes.append(f"{line_name('defense', str(family))}, {what} {each};")
    return [" ".join(notes).removesuffix(";") + "."] if len(notes) > 1 else []


def _symmetric(axes: Axes, x: pd.Series) -> None:
    """Linear around zero, logarithmic where likelihoods lost differ by orders of magnitude."""
    axes.axvline(0, color="0.7", linewidth=0.7, zorder=0)
    if x.max() > 2:
        axes.set_xscale("symlog", linthresh=0.5, linscale=1.0)
        ticks = [t for t in SYMMETRIC_TICKS if 1.5 * x.min() <= t <= 1.5 * x.max()]
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.set_xticks([], minor=True)


def _logarithmic(axes: Axes, x: pd.Series) -> None:
    axes.set_xscale("log")
    axes.axvline(1, color="0.7", linewidth=0.7, zorder=0)
    ticks = [t for t in (0.5, 1, 2, 5, 10, 20, 50, 100) if x.min() / 1.5 < t < x.max() * 1.5]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_xticks([], minor=True)


def tradeoff_plot(
    table: pd.DataFrame, epsilon: float, metric: str = "kl_forward", defense: str = "fim"
) -> Figure:
    """Draw divergence under attack against likelihood lost over beta of one defense.

    Args:
        table: As in `outcomes`.
        epsilon: Radius of the attack.
        metric: Divergence.
        defense: Name of a defense that has beta.
    """
    return figure_of([tradeoff_part(table, epsilon, metric, defense)])


def tradeoff_part(
    table: pd.DataFrame, epsilon: float, metric: str = "kl_forward", defense: str = "fim"
) -> Part:
    """Return the part of a figure that `tradeoff_plot` consists of; arguments as there."""
    runs = outcomes(table[table.defense.isin(["none", defense])], epsilon, metric)
    runs = runs.assign(x=runs.nll - runs.nll_none, y=runs.kl)
    tasks, betas = in_paper_order(runs.task), runs.beta.dropna()
    if betas.empty:
        raise NothingToDrawError(f"no rows with defense {defense} and a beta")
    colors = ScalarMappable(LogNorm(betas.min(), betas.max()), "viridis_r")

    def draw(place: SubFigure) -> list[str]:
        panels = task_panels(place, tasks, rows=1)
        for task, axes in panels.items():
            points = _means(runs[runs.task == task])
            axes.set_yscale("log")
            axes.plot(points.x, points.y, color="0.6", linewidth=0.8, zorder=1)
            _symmetric(axes, points.x)
            for _, point in points.iterrows():
                plain = np.isnan(point.beta)
                color = COLORS["none"] if plain else colors.to_rgba(point.beta)
                style: dict[str, Any] = {
                    "color": color,
                    "marker": "s" if plain else "o",
                    "markersize": 4,
                }
                axes.errorbar(point.x, point.y, **_whiskers(point), elinewidth=0.6, **style)
            axes.margins(0.12)
            log_ticks(axes)
        look: dict[str, Any] = {"aspect": 15, "pad": 0.01, "format": "%g", "label": "β"}
        place.colorbar(colors, ax=list(panels.values()), **look)
        label_axes(place, NLL, f"KL under attack\nat radius {epsilon:g}, nats")
        name = line_name("defense", defense)
        return [f"Squares: no defense; circles: {name}.", *_seeds(runs), *marks_note(runs)]

    return Part(draw, 46.0)


def _whiskers(point: pd.Series) -> dict[str, Any]:
    return {
        f"{name}err": [
            [point[name] - point[f"{name}_least"]],
            [point[f"{name}_most"] - point[name]],
        ]
        for name in ("x", "y")
    }
