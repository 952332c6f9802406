"""Defenses compared at equal likelihood and at equal cost of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from robust_npe.plotting.cells import (
    DEFENSE,
    MARKS,
    SEEDS,
    NothingToDrawError,
    cells,
    marks_note,
    marks_of,
    most_seeds,
    not_told_from_zero,
    require_one_setting,
)
from robust_npe.plotting.columns import tidy
from robust_npe.plotting.describing import setup_note, strengths_note
from robust_npe.plotting.layout import (
    Part,
    add_legend,
    figure_of,
    label_axes,
    rows_of,
    task_panels,
)
from robust_npe.plotting.lines import log_limits, looks_of
from robust_npe.plotting.losses import loss_axis
from robust_npe.plotting.names import (
    in_paper_order,
    line_name,
    named_defenses,
    task_name,
    unit_name,
)
from robust_npe.plotting.style import Look

__all__ = ["cost_plot", "front_plot", "outcomes", "trainings"]

STRENGTH = [*DEFENSE[1:]]
LOST = "clean negative log likelihood, in nats above no defense"
EXPENSIVE = 0.5  # nats of likelihood


def outcomes(table: pd.DataFrame, epsilon: float, metric: str = "kl_forward") -> pd.DataFrame:
    """Return what each training of each defense gained and what it cost.

    Args:
        table: Results of one attack, with undefended runs of the same seeds.
        epsilon: Radius of the attack.
        metric: Divergence.

    Returns:
        One row for each task, defense with its settings, and seeds: `kl`, the median under attack,
        0 where that is not more than two standard errors, inf where it is not finite; `nll`, the
        clean mean; `seconds` of training, NaN where the table has none; the three without defense,
        `kl_none`, `nll_none`, `seconds_none`; what speaks against the row.

    Raises:
        NothingToDrawError: The table lacks the divergence at this radius, or undefended runs.
        ValueError: The table mixes settings other than those of defenses.
    """
    runs = trainings(table, epsilon, metric)
    keys = ["task", *SEEDS]
    plain = runs[runs.defense == "none"][[*keys, "kl", "nll", "seconds"]]
    runs = runs.merge(plain, "left", on=keys, suffixes=("", "_none"))
    if runs.kl_none.isna().any():
        lost = runs[runs.kl_none.isna()].iloc[0]
        raise NothingToDrawError(f"no undefended runs of {lost.task}, seed {lost.seed}")
    return runs


def trainings(table: pd.DataFrame, epsilon: float, metric: str = "kl_forward") -> pd.DataFrame:
    """Return the same without the comparison; undefended runs are not needed.

    Raises:
        NothingToDrawError: The table lacks the divergence at this radius.
        ValueError: The table mixes settings other than those of defenses.
    """
    rows = cells(table, [metric, "nll", "training"])
    rows = rows[(rows.attack == "none") | (rows.epsilon == epsilon)]
    for task, attacked in rows[rows.attack != "none"].groupby("task"):
        require_one_setting(attacked, f"{task}, epsilon {epsilon:g}", but=DEFENSE)
    rows = named_defenses(rows).assign(family=rows.defense)
    keys = ["task", "defense", *SEEDS]
    found: dict[str, pd.Series] = {}
    wanted = {
        "kl": (metric, "median"),
        "error": (metric, "median_se"),
        "nll": ("nll", "mean"),
        "seconds": ("training", "seconds"),
    }
    for name, (which, statistic) in wanted.items():
        part = rows[(rows.metric == which) & (rows.statistic == statistic)]
        part = part[(part.attack != "none") == (which == metric)]
        found[name] = part.set_index(keys).value
    if found["kl"].empty:
        raise NothingToDrawError(f"no rows with metric {metric} at radius {epsilon:g}")
    runs = pd.DataFrame(found).loc[found["kl"].index].reset_index()
    runs["kl"] = runs.kl.fillna(np.inf)
    runs["kl"] = runs.kl.mask(not_told_from_zero(runs.kl, runs.pop("error").fillna(0)), 0.0)
    settings = rows.groupby(keys)[["family", *DEFENSE[1:]]].first()
    against = rows.groupby(keys)[[*MARKS]].any()
    return runs.join(settings, on=keys).join(against, on=keys)


@tidy
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
    labels = LOST, f"KL under attack at radius {epsilon:g}, nats"
    part = _fronts_part(runs, labels, loss_axis)
    return figure_of([part], _setup_notes(table, part.tasks, epsilon))


@tidy
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
        f"KL at radius {epsilon:g}, without / with defense",
    )
    note = f"Hollow: costs more than {EXPENSIVE:g} nats of clean likelihood."
    notes = [note]
    if (runs.kl_none <= 0).any():
        tasks = map(task_name, in_paper_order(runs[runs.kl_none <= 0].task))
        notes.append(f"Without a defense not told from zero, so not drawn: {', '.join(tasks)}.")
    runs = runs[runs.kl_none > 0]
    if runs.empty:
        raise NothingToDrawError("no undefended runs with a divergence above its resolution")
    part = _fronts_part(runs, labels, _logarithmic, notes)
    return figure_of([part], _setup_notes(table, part.tasks, epsilon))


def _setup_notes(table: pd.DataFrame, tasks: Sequence[str], epsilon: float) -> list[str]:
    """What the radius is, and what all runs have in common."""
    attacked = table[(table.attack != "none") & (table.epsilon == epsilon) & table.task.isin(tasks)]
    return [f"Radius: in {unit_name(attacked)}.", *setup_note(table, tasks)]


def _fronts_part(
    runs: pd.DataFrame,
    labels: tuple[str, str],
    scale: Callable[[Axes, pd.Series], list[str]],
    notes: list[str] | None = None,
) -> Part:
    looks, tasks = looks_of(runs.assign(defense=runs.family), "defense"), in_paper_order(runs.task)
    # what holds for a whole line is said in the legend
    whole = runs.groupby("family").fewer.transform("all")
    labelled = {
        family: line_name("defense", family) + f" {MARKS['fewer'][0]}" * bool(own.any())
        for family, own in whole.groupby(runs.family.astype(str))
    }
    shown = runs.assign(fewer=runs.fewer & ~whole)

    def draw(place: SubFigure) -> list[str]:
        told = []
        for task, axes in task_panels(place, tasks).items():
            own = shown[shown.task == task]
            told += scale(axes, own.x)
            log_limits(axes, own.y.to_numpy())
            plain = own[own.family == "none"].y.mean()
            axes.axhline(plain, color="0.7", linewidth=0.7, zorder=0)
            for family, look in reversed(looks.items()):  # no defense on top
                _draw_front(axes, own[own.family == family], look, labelled[family])
        label_axes(place, *labels)
        add_legend(part, place, place.axes)
        grey = "Grey lines: no defense."
        return [*strengths_note(runs), *(notes or []), *told, grey, *notes_of(runs)]

    legend = [labelled[family] for family in looks]
    narrow = len(tasks) == 1
    part = Part(draw, 52.0 * rows_of(len(tasks)) + 6, legend, narrow=narrow, tasks=tasks)
    return part


def _draw_front(axes: Axes, runs: pd.DataFrame, look: Look, label: str) -> None:
    """The strengths of one defense, from weak (small) to strong (large)."""
    if runs.empty:
        return
    points = clipped(axes, means(runs))
    x, y = points.x, points.y
    axes.plot(x, y, color=look.color, linewidth=0.9, alpha=0.8)
    sizes = np.linspace(3, 6, len(points)) if len(points) > 1 else [4.5]
    for size, (_, point) in zip(sizes, points.iterrows(), strict=True):
        draw_point(axes, point, look, size)
    style: dict[str, Any] = {"color": look.color, "marker": look.marker, "markersize": 4}
    line = "-" if len(points) > 1 else "none"
    axes.plot([], [], label=label, linewidth=0.9, linestyle=line, **style)


def means(runs: pd.DataFrame) -> pd.DataFrame:
    """One row for each setting of a defense: means over seeds and their range."""
    groups = runs.groupby(STRENGTH, dropna=False)
    points = groups[["x", "y"]].mean()
    for name in ("x", "y"):
        points[f"{name}_least"], points[f"{name}_most"] = groups[name].min(), groups[name].max()
    if "hollow" in runs:
        points["hollow"] = groups.hollow.mean() > 0.5
    against = groups[[*MARKS]].any()
    points["mark"] = [marks_of(row) for _, row in against.iterrows()]
    return points.reset_index().sort_values(STRENGTH, na_position="first")


def clipped(axes: Axes, points: pd.DataFrame) -> pd.DataFrame:
    """Move what the logarithmic axis cannot show to its ends, and say so in the column `edge`."""
    vertical = points[["y", "y_least", "y_most"]].clip(*axes.get_ylim())
    return points.assign(**vertical, edge=(points.y <= 0) | np.isinf(points.y))


def notes_of(runs: pd.DataFrame) -> list[str]:
    """Return what a reader must be told of points that are drawn from `outcomes`."""
    count = most_seeds(runs)
    over = f", means over {count} seeds; whiskers: their range" if count > 1 else ""
    notes = [f"Points: medians of KL over observations{over}."]
    if ((runs.kl <= 0) | np.isinf(runs.kl)).any():
        notes.append("At an end of the axis (hollow): KL not told from zero, or not finite.")
    for _, lost in runs[~np.isfinite(runs.nll)].iterrows():
        name = line_name("defense", str(lost.defense))
        notes.append(f"Not drawn: {name} on {task_name(lost.task)}, likelihood not finite.")
    return [*notes, *marks_note(runs)]


def _logarithmic(axes: Axes, x: pd.Series) -> list[str]:
    axes.set_xscale("log")
    axes.axvline(1, color="0.7", linewidth=0.7, zorder=0)
    ticks = [
        t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if x.min() / 1.5 < t < x.max() * 1.5
    ]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(x.min() / 1.4, x.max() * 1.4)
    return []


def draw_point(axes: Axes, point: pd.Series, look: Look, size: float) -> None:
    """Draw one setting of a defense: mean over seeds, whiskers, and what speaks against it."""
    errors: dict[str, Any] = {
        f"{name}err": [
            [max(0.0, point[name] - point[f"{name}_least"])],  # rounding makes them negative
            [max(0.0, point[f"{name}_most"] - point[name])],
        ]
        for name in ("x", "y")
    }
    hollow = point.edge or point.get("hollow", False)
    axes.errorbar(
        point.x,
        point.y,
        **errors,
        color=look.color,
        elinewidth=0.6,
        marker=look.marker,
        markersize=size,
        markerfacecolor="white" if hollow else look.color,
        markeredgewidth=0.7,
        clip_on=not point.edge,
    )
    where: dict[str, Any] = {"xytext": (2, 2), "textcoords": "offset points", "fontsize": 7}
    axes.annotate(point.mark, (point.x, point.y), **where)
