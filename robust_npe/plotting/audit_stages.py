"""Pictures of one observation of an audit, radius by radius: x, posterior, simulations from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robust_npe.plotting.style import COLORS, add_caption, new_figure
from robust_npe.tasks import Task

__all__ = ["stage_name", "stages"]

UNEVEN = 30.0  # ratio of the sizes of features from which on each has its own unit
VALUES = ["given", "q05", "q25", "q50", "q75", "q95"]  # of predictive simulations
NAMED = 12  # features that have room for their names
MOST_PARAMETERS = 4  # in a pair plot
CLEAN, MOVED = COLORS["clean"], COLORS["adversarial"]


def stage_name(kind: str, observation: int, stage: int) -> str:
    """Return the name of a picture of one observation at the radius of this number."""
    return f"{kind}_{observation}_{stage}"


def stages(tables: Mapping[str, pd.DataFrame], task: Task | None) -> Iterator[tuple[str, Figure]]:
    """Yield the pictures of single observations, with axes that stay the same as radii grow."""
    x, draws, predictive = (tables[name] for name in ("x", "draws", "predictive"))
    draws = draws.loc[np.isfinite(draws.to_numpy(float)).all(axis=1)]
    images = task is not None and len(x) > 0 and _draws_images(task, _first(x))
    painter = task if images else None
    label, sizes = ("x", None) if images else _common_unit(tables["threat"])
    x, predictive = _divided(x, ["value"], sizes), _divided(predictive, VALUES, sizes)
    for i in x.observation.unique() if len(x) else ():
        mine, samples = (t[t.observation == i] for t in (x, draws))
        simulated = predictive[predictive.observation == i]
        truth = tables["truth"][tables["truth"].observation == i].drop(columns="observation")
        for k, epsilon in enumerate(sorted(mine.epsilon.unique())):
            yield stage_name("x", i, k), _observation(mine, epsilon, painter, label)
            if len(samples):
                yield stage_name("posterior", i, k), _posterior(samples, epsilon, truth)
            if {0.0, epsilon} <= set(simulated.epsilon):
                yield stage_name("predictive", i, k), _predictive(simulated, epsilon, label)


def _common_unit(threat: pd.DataFrame) -> tuple[str, pd.Series | None]:
    """Return what x is called on axes, and what to divide each feature by: nothing, unless features
    are of so different size that one axis cannot show them."""
    largest = float(threat.epsilon.max())
    moves = threat[threat.epsilon == largest].set_index("feature").largest_move
    if not float(moves.max()) > UNEVEN * float(moves.min()):
        return "x", None
    return f"x / move at {largest:g}", moves


def _divided(table: pd.DataFrame, columns: list[str], sizes: pd.Series | None) -> pd.DataFrame:
    if sizes is None or table.empty:
        return table
    return table.assign(**{name: table[name] / table.feature.map(sizes) for name in columns})


def _first(x: pd.DataFrame) -> np.ndarray:
    """Return one observation."""
    row = x.iloc[0]
    return x[(x.observation == row.observation) & (x.epsilon == row.epsilon)].value.to_numpy()


def _observation(x: pd.DataFrame, epsilon: float, task: Task | None, label: str) -> Figure:
    """x and x~ above, their difference below; or side by side as images that the task draws."""
    clean, given = (x[x.epsilon == e] for e in (0.0, epsilon))
    names, before, after = clean.feature.tolist(), clean.value.to_numpy(), given.value.to_numpy()
    figure = new_figure(4.4, 3.4)
    if task is not None:
        panels = figure.subplots(1, 2, squeeze=False)[0]
        for axes, values, title in zip(panels, (before, after), _titles(epsilon), strict=True):
            task.plot(axes, torch.tensor(values))
            axes.set_title(title)
        return figure
    top, bottom = figure.subplots(2, 1, squeeze=False, sharex=True, height_ratios=[2, 1])[:, 0]
    places = np.arange(len(names))
    line = {"marker": "o", "markersize": 4 if len(names) <= NAMED else 0, "linewidth": 1}
    if epsilon:
        top.plot(places, after, color=MOVED, label=f"x~ at epsilon {epsilon:g}", **line)
    top.plot(places, before, color=CLEAN, label="x", **line | {"linestyle": "--"})
    top.legend()
    top.set_ylabel(label)
    changes = x.value.to_numpy() - np.tile(before, x.epsilon.nunique())
    bottom.bar(places, after - before, color=MOVED)
    largest = max(float(np.abs(changes).max()), 1e-30)
    bottom.set_ylim(-1.1 * largest, 1.1 * largest)
    bottom.axhline(0, color="0.6", linewidth=0.6)
    bottom.set_ylabel("x~ - x")
    _name_features(bottom, names)
    return figure


def _titles(epsilon: float) -> tuple[str, str]:
    return "x", f"x~ at epsilon {epsilon:g}" if epsilon else "x again"


def _draws_images(task: Task, x: np.ndarray) -> bool:
    axes = new_figure(1, 1).add_subplot()
    task.plot(axes, torch.tensor(x))
    return bool(axes.images)


def _name_features(axes: Axes, names: list[str]) -> None:
    if len(names) <= NAMED:
        turned: dict[str, Any] = {"rotation": 30, "ha": "right"} if max(map(len, names)) > 4 else {}
        axes.set_xticks(range(len(names)), names, **turned)
    else:
        axes.set_xlabel("feature")


def _posterior(draws: pd.DataFrame, epsilon: float, truth: pd.DataFrame) -> Figure:
    """Pair plot of the parameters that move most: marginals on the diagonal, samples below it."""
    clean = draws[draws.epsilon == 0]
    names = _moving(draws, [c for c in draws.columns if c not in ("observation", "epsilon")])
    shown = {"x": (clean, CLEAN)}
    if epsilon:
        shown[f"x~ at epsilon {epsilon:g}"] = draws[draws.epsilon == epsilon], MOVED
    size = len(names)
    figure = new_figure(max(3.2, 1.1 * size), max(2.4, 1.1 * size))
    panels = figure.subplots(size, size, squeeze=False)
    limits = {name: np.quantile(draws[name], [0.002, 0.998]) for name in names}
    for row, below in enumerate(names):
        for column, across in enumerate(names):
            axes = panels[row, column]
            if column > row:
                axes.set_axis_off()
                continue
            for label, (samples, color) in shown.items():
                _draw_pair(axes, samples, across, below, limits[across], color, label)
            _draw_truth(axes, truth, across, below)
            _limit(axes.set_xlim, limits[across])
            if row != column:
                _limit(axes.set_ylim, limits[below])
            axes.set_xlabel(across if row == size - 1 else "")
            axes.set_ylabel(below if column == 0 and row else "")
            axes.tick_params(labelbottom=row == size - 1, labelleft=column == 0 and row > 0)
            axes.locator_params(nbins=3)
    panels[0, 0].set_yticks([])
    handles, labels = panels[0, 0].get_legend_handles_labels()
    place = {"loc": "upper right"} if size > 1 else {"loc": "outside lower center", "ncols": 3}
    figure.legend(handles, labels, **place)
    if len(names) < draws.shape[1] - 2:
        notes = [f"The {size} parameters of {draws.shape[1] - 2} whose means shift most."]
        add_caption(figure, notes)
    return figure


def _limit(set_limits: object, limits: np.ndarray) -> None:
    low, high = limits
    margin = 0.05 * (high - low)
    if np.isfinite(margin) and margin > 0 and callable(set_limits):
        set_limits(low - margin, high + margin)


def _moving(draws: pd.DataFrame, names: list[str]) -> list[str]:
    """Return at most four of the parameters, those whose means shift most over the radii."""
    means = draws.groupby("epsilon")[names].mean()
    shift = ((means - means.iloc[0]).abs() / draws[draws.epsilon == 0][names].std()).max()
    chosen = set(shift.sort_values(ascending=False, kind="stable").index[:MOST_PARAMETERS])
    return [name for name in names if name in chosen]


def _draw_pair(
    axes: Axes,
    samples: pd.DataFrame,
    across: str,
    below: str,
    limits: np.ndarray,
    color: str,
    label: str,
) -> None:
    if samples.empty:
        return
    if across == below:
        bins: Any = np.linspace(limits[0], limits[1], 31) if limits[1] > limits[0] else 10
        axes.hist(samples[across], bins, color=color, alpha=0.55, density=True, label=label)
    else:
        axes.plot(samples[across], samples[below], ".", color=color, markersize=2, alpha=0.4)


def _draw_truth(axes: Axes, truth: pd.DataFrame, across: str, below: str) -> None:
    if truth.empty:
        return
    axes.axvline(float(truth[across].iloc[0]), color="black", linewidth=0.9, label="truth")
    if across != below:
        axes.axhline(float(truth[below].iloc[0]), color="black", linewidth=0.9)


def _predictive(table: pd.DataFrame, epsilon: float, label: str) -> Figure:
    """Bands of simulations from the posterior, with what it was given and with x."""
    rows, clean = (table[table.epsilon == e] for e in (epsilon, 0.0))
    places, names = np.arange(len(rows)), rows.feature.tolist()
    figure = new_figure(4.4, 2.9)
    axes = figure.add_subplot()
    color = MOVED if epsilon else CLEAN
    if len(names) <= NAMED:
        for low, high, width in (("q05", "q95", 3), ("q25", "q75", 8)):
            axes.vlines(places, rows[low], rows[high], color=color, alpha=0.35, linewidth=width)
    else:
        for low, high in (("q05", "q95"), ("q25", "q75")):
            axes.fill_between(places, rows[low], rows[high], color=color, alpha=0.25, linewidth=0)
        axes.plot(places, rows.q50, color=color, linewidth=0.8)
    mark: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 4}
    mark = mark if len(names) <= NAMED else {"linewidth": 1}
    if epsilon:
        axes.plot(places, rows.given, color=MOVED, label=f"x~ at epsilon {epsilon:g}", **mark)
    axes.plot(places, clean.given, color=CLEAN, label="x", **mark)
    edges = table[["q05", "q95", "given"]].to_numpy()
    _limit(axes.set_ylim, np.array([edges.min(), edges.max()]))
    axes.set_ylabel(f"simulated {label}")
    axes.legend()
    _name_features(axes, names)
    add_caption(figure, ["Bands hold 50 and 90 % of the simulations."])
    return figure
