"""Figures of several quantities side by side: what a setting changes, and what attacks do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from robust_npe.plotting.cells import (
    NothingToDrawError,
    cells,
    marks_note,
    points,
    seeds_note,
    text_of,
)
from robust_npe.plotting.columns import tidy
from robust_npe.plotting.describing import settings_note, setup_note
from robust_npe.plotting.layout import (
    WIDEST,
    Part,
    add_legend,
    block_panels,
    blocks_of,
    figure_of,
    label_axes,
    panels_height,
    task_panels,
)
from robust_npe.plotting.lines import POINTS, TURNED, Quantity, category_names, draw_panel, looks_of
from robust_npe.plotting.names import (
    in_paper_order,
    line_name,
    radius_name,
    task_name,
    title_lines,
)
from robust_npe.plotting.style import Look

__all__ = [
    "attack_strength_plot",
    "by_setting_plot",
    "lines_part",
    "run_time_plot",
]

KL = {
    "kl_forward": r"$\mathrm{KL}(q\,\|\,\tilde q)$" "\nunder attack, nats",
    "kl_reverse": r"$\mathrm{KL}(\tilde q\,\|\,q)$" "\nunder attack, nats",
}
COVERAGE = Quantity("coverage", "coverage\nerror", "mean_absolute_error", log=False, best=0.0)
NLL = Quantity("nll", "clean negative\nlog likelihood, nats", "mean", log=False)
SECONDS = Quantity("training", "training time, s", "seconds")
SHARE = Quantity("share", "share of the\nlargest", log=False, best=1.0)
SENSITIVITY = Quantity("kl_forward", "sensitivity,\n" r"$\mathrm{KL}(q\,\|\,\tilde q)$, nats")
MOVEMENT = Quantity(
    "legitimate_movement", "legitimate\nmovement,\n" r"$\mathrm{KL}(p\,\|\,\tilde p)$, nats"
)
ERROR = Quantity("error", "error,\n" r"$\mathrm{KL}(\tilde p\,\|\,\tilde q)$, nats")
C2ST = Quantity("reference_c2st", "C2ST to the\ntrue posterior", "mean", log=False, best=0.5)
MEANINGS = {
    SECONDS: "Seconds: elapsed, on the machine that trained, which may have had other work.",
    SHARE: "Share: of the largest median that any of these attacks reached at the radius.",
    COVERAGE: "Coverage error: mean distance of the coverage curve from the diagonal.",
    NLL: "Likelihoods: means over observations.",
    ERROR: "p: true posterior, q: estimated; with a tilde: of the attacked observation.",
}
"""What the caption says of a quantity."""

OF_ATTACKS = ("attack", "objective", "attack_settings")
COLUMNS = {
    "num_simulations": "simulations for training",
    "beta": "β",
    "defense_epsilon": "training radius, in standard deviations of x",
}
"""Names of horizontal axes."""
PLURALS = {"defense": "defenses", "estimator": "estimators"}

SHORT = 15  # characters of names that have room below an axis
FEW = 4  # radii that have room for all names in any panel
WIDE = 3  # panels in a row that have room for all labels


@tidy
def by_setting_plot(table: pd.DataFrame, compare: str, metric: str = "kl_forward") -> Figure:
    """Draw what a setting changes: movement and coverage error over epsilon, and clean likelihood.

    Args:
        table: Results of one attack, coverage and likelihood measured.
        compare: The setting: a column such as `num_simulations`, `estimator`, `beta`,
            `defense_epsilon`, `objective` or `defense` (see `named_defenses`).
        metric: `kl_forward` or `kl_reverse`.
    """
    movement = Quantity(metric, KL.get(metric, metric))
    parts = [lines_part(table, [movement, COVERAGE], compare)]
    if compare not in OF_ATTACKS:
        parts.append(lines_part(table, [NLL], compare, x=compare, lines=1, legend=False))
    return figure_of(parts, setup_note(table, parts[0].tasks))


@tidy
def attack_strength_plot(table: pd.DataFrame, metric: str = "kl_forward") -> Figure:
    """Draw what several attacks find on the same estimators, and its share of the largest.

    Args:
        table: Results of several attacks on estimators without or with one defense.
        metric: Divergence that they climbed.
    """
    rows = table[(table.metric == metric) & (table.epsilon > 0)]
    medians = rows[rows.statistic == "median"]
    largest = medians.groupby(["task", "epsilon", "seed", "data_seed"]).value.transform("max")
    shares = medians.assign(metric=SHARE.metric, value=(medians.value / largest).clip(lower=0))
    movement = Quantity(metric, KL.get(metric, metric))
    part = lines_part(pd.concat([table, shares]), [movement, SHARE], "attack")
    return figure_of([part], setup_note(table, part.tasks))


@tidy
def run_time_plot(
    table: pd.DataFrame, x: str = "num_simulations", compare: str = "defense"
) -> Figure:
    """Draw seconds of training.

    Args:
        table: Results with the statistic `seconds` of the metric `training`.
        x: Column of the horizontal axis, such as `num_simulations` or `estimator`.
        compare: What the lines are.
    """
    part = lines_part(table, [SECONDS], compare, x=x)
    return figure_of([part], setup_note(table, part.tasks))


def lines_part(
    table: pd.DataFrame,
    quantities: Sequence[Quantity],
    compare: str,
    x: str = "epsilon",
    lines: int | None = None,
    shared: bool = False,
    legend: bool = True,
) -> Part:
    """Return a part of a figure with one panel per quantity (down) and task (across); quantities
    are across where there is one task, and tasks in several rows where there is one quantity.

    Args:
        table: Tidy results.
        quantities: What is drawn.
        compare: What the lines are.
        x: Horizontal axis; other columns than `epsilon` show clean observations.
        lines: Rows of panels where there is one quantity; None for as many as are needed, as there
            are for more tasks than fit beside one another.
        shared: Whether all quantities of a task, on logarithmic axes, have equal limits.
        legend: Whether there is a legend, unless the horizontal axis says the same.

    Raises:
        NothingToDrawError: The table has none of the quantities.
        ValueError: A line would mix settings.
    """
    rows = _rows(table, quantities, compare, x)
    looks, tasks = looks_of(rows, compare), in_paper_order(rows.task)
    if x == compare:  # the value that is missing is one of the categories
        rows = rows.assign(**{x: rows[x].map(text_of)})
    across = len(tasks) == 1 and len(quantities) > 1
    lines = lines if len(tasks) <= WIDEST else None
    told = x == compare and max(map(len, category_names(list(looks), x))) <= SHORT
    names = [line_name(compare, name) for name in looks] if legend and not told else []

    def draw(place: SubFigure) -> list[str]:
        panels = _panels(place, tasks, quantities, lines)
        notes = _draw(panels, rows, compare, looks, x, shared)
        if x == compare and not told:
            for axes in place.axes:
                axes.set_xticks([])
            label_axes(place, f"{PLURALS.get(x, x)}, in the order of the legend")
        else:
            attacked = rows[rows.attack != "none"]
            label_axes(place, radius_name(attacked) if x == "epsilon" else COLUMNS.get(x, x))
        add_legend(part, place, place.axes)
        notes += [meaning for q, meaning in MEANINGS.items() if q in quantities]
        return [*notes, *seeds_note(rows), *marks_note(rows), *settings_note(rows, compare)]

    height = 33.0 * len(quantities) * blocks_of(len(tasks))[0] + 10
    if across or len(quantities) == 1:
        height = panels_height(lines or max(len(tasks), len(quantities)))
    title, narrow = task_name(tasks[0]) if across else None, len(tasks) * len(quantities) == 1
    part = Part(draw, height, names, title, narrow, tasks)
    return part


def _draw(
    panels: Mapping[tuple[str, Quantity], Axes],
    rows: pd.DataFrame,
    compare: str,
    looks: Mapping[str, Look],
    x: str,
    shared: bool,
) -> list[str]:
    """Draw all panels of a part; arguments as in `lines_part`, after `_rows`."""
    categories = [] if x == compare else sorted(rows[x].unique())
    notes = [POINTS] if x == "epsilon" else []
    notes += ["Radius 0: clean observations."] if 0 in categories else []
    quantities = list(dict.fromkeys(quantity for _, quantity in panels))
    for (task, quantity), axes in panels.items():
        within = _within(rows[rows.task == task], quantities, compare) if shared else []
        own = rows[(rows.task == task) & (rows.metric == quantity.metric)]
        shown = categories or [name for name in looks if name in set(own[x])]
        notes += draw_panel(axes, own, quantity, compare, looks, x, shown, within)
        _thin_ticks(axes, shown, x)
    return notes


def _thin_ticks(axes: Axes, categories: Sequence[Any], x: str) -> None:
    """Where panels are narrow, name every second of many radii, and write other names upright."""
    grid = axes.get_gridspec()
    if grid is None or grid.ncols <= WIDE:
        return
    if x == "epsilon" and len(categories) > FEW:
        axes.set_xticks(range(0, len(categories), 2), map(text_of, categories[::2]))
    for label in axes.get_xticklabels() if x in TURNED else ():
        label.set(rotation=90, ha="center")


def _within(rows: pd.DataFrame, quantities: Sequence[Quantity], compare: str) -> list[pd.DataFrame]:
    """All points of one task, for limits that panels share."""
    groups = rows.groupby(rows[compare].map(text_of))
    each = [
        points(own, q.metric, q.statistic, positive=q.log) for _, own in groups for q in quantities
    ]
    return [found.drop(columns="mark") for found in each]


def _rows(
    table: pd.DataFrame, quantities: Sequence[Quantity], compare: str, x: str
) -> pd.DataFrame:
    """The rows that are drawn: of the wanted statistics, and clean ones where they have a place."""
    rows = cells(table, [q.metric for q in quantities])
    clean = rows.attack == "none"
    placed = clean & (compare not in OF_ATTACKS)
    rows = rows[clean if x != "epsilon" else placed | ~clean & (rows.epsilon > 0)]
    drawn = pd.Series(False, index=rows.index)
    for quantity in quantities:
        own = (rows.metric == quantity.metric) & rows.statistic.isin(quantity.statistics)
        if quantity is quantities[0] and not own.any():
            wanted = f"{quantity.metric} ({quantity.statistic})"
            raise NothingToDrawError(f"no rows with metric {wanted}")
        drawn |= own
    return rows[drawn]


def _panels(
    place: SubFigure, tasks: Sequence[str], quantities: Sequence[Quantity], lines: int | None
) -> dict[tuple[str, Quantity], Axes]:
    if len(quantities) == 1:
        named = task_panels(place, tasks, lines)
        label_axes(place, y=quantities[0].label)
        return {(task, quantities[0]): axes for task, axes in named.items()}
    if len(tasks) == 1:
        grid = place.subplots(1, len(quantities), squeeze=False, sharex=True).T.tolist()
    else:
        grid = block_panels(place, len(quantities), len(tasks), sharey=False)
    columns, panels = blocks_of(len(tasks))[1], {}
    for (i, quantity), (j, task) in product(enumerate(quantities), enumerate(tasks)):
        panels[task, quantity] = axes = grid[i][j]
        axes.set_ylabel("" if j % columns else quantity.label)
        if i == 0 and len(tasks) > 1:
            axes.set_title(title_lines(task_name(task), columns))
    return panels
