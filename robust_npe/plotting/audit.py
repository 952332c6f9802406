"""Pictures of an audit, drawn from its tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from io import BytesIO

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robust_npe.plotting.coverage import draw_coverage
from robust_npe.plotting.style import COLORS, add_caption, new_figure, style
from robust_npe.tasks import Task

__all__ = ["figures", "png", "stage_name"]

DPI = 100
NAMED = 12  # features that have room for their names
MOST_PARAMETERS = 4  # in a pair plot
CLEAN, MOVED = COLORS["clean"], COLORS["adversarial"]


def figures(
    tables: Mapping[str, pd.DataFrame], attack: str, task: Task | None = None
) -> dict[str, Figure]:
    """Draw everything that the tables of an audit have data for.

    Args:
        tables: See `robust_npe.auditing.Report`.
        attack: Name of the attack.
        task: Draws x, where it is known.

    Returns:
        Figures by name: `coverage`, `typicality`, `movement`, `sensitivity`; and for each pictured
        observation and radius `x_<i>_<k>`, `posterior_<i>_<k>`, `predictive_<i>_<k>`, where k counts
        radii from 0, which is x itself (see `stage_name`).
    """
    drawn: dict[str, Figure] = {}
    with style():
        coverage = tables["quality"][tables["quality"].statistic == "coverage"]
        if len(coverage):
            drawn["coverage"] = _coverage(coverage)
        if len(tables["typicality"]):
            drawn["typicality"] = _typicality(tables["typicality"])
        drawn["movement"] = _movement(tables["attacks"], attack)
        if tables["sensitivity"].component.notna().any():
            drawn["sensitivity"] = _sensitivity(tables["sensitivity"])
        drawn.update(_stages(tables, task))
    return drawn


def stage_name(kind: str, observation: int, stage: int) -> str:
    """Return the name of a picture of one observation at the radius of this number."""
    return f"{kind}_{observation}_{stage}"


def png(figure: Figure) -> bytes:
    """Return a figure as a small png file: 256 colours are enough for lines and dots."""
    from PIL import Image  # comes with matplotlib

    raw, small = BytesIO(), BytesIO()
    with style(), mpl.rc_context({"savefig.bbox": "standard"}):  # of one size for all radii
        figure.savefig(raw, format="png", dpi=DPI, metadata={"Software": None})
    Image.open(raw).convert("RGB").quantize(64).save(small, "png", optimize=True)
    return small.getvalue()


def _stages(tables: Mapping[str, pd.DataFrame], task: Task | None) -> Iterator[tuple[str, Figure]]:
    """Yield the pictures of single observations, with axes that stay the same as radii grow."""
    x, draws, predictive = (tables[name] for name in ("x", "draws", "predictive"))
    for i in x.observation.unique() if len(x) else ():
        mine, samples = (t[t.observation == i] for t in (x, draws))
        simulated = predictive[predictive.observation == i]
        truth = tables["truth"][tables["truth"].observation == i].drop(columns="observation")
        for k, epsilon in enumerate(sorted(mine.epsilon.unique())):
            yield stage_name("x", i, k), _observation(mine, epsilon, task)
            yield stage_name("posterior", i, k), _posterior(samples, epsilon, truth)
            if (simulated.epsilon == epsilon).any():
                yield stage_name("predictive", i, k), _predictive(simulated, epsilon)


def _observation(x: pd.DataFrame, epsilon: float, task: Task | None) -> Figure:
    """x and x~ above, their difference below; or side by side where the task draws images."""
    clean, given = (x[x.epsilon == e] for e in (0.0, epsilon))
    names, before, after = clean.feature.tolist(), clean.value.to_numpy(), given.value.to_numpy()
    figure = new_figure(4.4, 3.4)
    if task is not None and _draws_images(task, before):
        panels = figure.subplots(1, 2)
        for axes, values, title in zip(panels, (before, after), _titles(epsilon), strict=True):
            task.plot(axes, torch.tensor(values))
            axes.set_title(title)
        return figure
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    places = np.arange(len(names))
    line = {"marker": "o", "markersize": 4 if len(names) <= NAMED else 0, "linewidth": 1}
    if epsilon:
        top.plot(places, after, color=MOVED, label=f"x~ at epsilon {epsilon:g}", **line)
    top.plot(places, before, color=CLEAN, label="x", **line | {"linestyle": "--"})
    top.legend()
    top.set_ylabel("x")
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
    axes = new_figure(1, 1).subplots()
    task.plot(axes, torch.tensor(x))
    return bool(axes.images)


def _name_features(axes: Axes, names: list[str]) -> None:
    if len(names) <= NAMED:
        turned = {"rotation": 30, "ha": "right"} if max(map(len, names)) > 4 else {}
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
    if across == below:
        bins = np.linspace(*limits, 31) if limits[1] > limits[0] else 10
        axes.hist(samples[across], bins, color=color, alpha=0.55, density=True, label=label)
    else:
        axes.plot(samples[across], samples[below], ".", color=color, markersize=2, alpha=0.4)


def _draw_truth(axes: Axes, truth: pd.DataFrame, across: str, below: str) -> None:
    if truth.empty:
        return
    axes.axvline(float(truth[across].iloc[0]), color="black", linewidth=0.9, label="truth")
    if across != below:
        axes.axhline(float(truth[below].iloc[0]), color="black", linewidth=0.9)


def _predictive(table: pd.DataFrame, epsilon: float) -> Figure:
    """Bands of simulations from the posterior, with what it was given and with x."""
    rows, clean = (table[table.epsilon == e] for e in (epsilon, 0.0))
    places, names = np.arange(len(rows)), rows.feature.tolist()
    figure = new_figure(4.4, 2.9)
    axes = figure.subplots()
    color = MOVED if epsilon else CLEAN
    if len(names) <= NAMED:
        for low, high, width in (("q05", "q95", 3), ("q25", "q75", 8)):
            axes.vlines(places, rows[low], rows[high], color=color, alpha=0.35, linewidth=width)
    else:
        for low, high in (("q05", "q95"), ("q25", "q75")):
            axes.fill_between(places, rows[low], rows[high], color=color, alpha=0.25, linewidth=0)
        axes.plot(places, rows.q50, color=color, linewidth=0.8)
    mark = {"linestyle": "", "marker": "o", "markersize": 4}
    mark = mark if len(names) <= NAMED else {"linewidth": 1}
    if epsilon:
        given = {"color": MOVED, "label": f"x~ at epsilon {epsilon:g}"}
        axes.plot(places, rows.given, **mark, **given)
    axes.plot(places, clean.given, color=CLEAN, label="x", **mark)
    edges = table[["q05", "q95", "given"]].to_numpy()
    _limit(axes.set_ylim, np.array([edges.min(), edges.max()]))
    axes.set_ylabel("simulated from q")
    axes.legend()
    _name_features(axes, names)
    add_caption(figure, ["Bands hold 50 and 90 % of the simulations."])
    return figure


def _coverage(curve: pd.DataFrame) -> Figure:
    figure = new_figure(2.9, 2.9)
    axes = figure.subplots()
    draw_coverage(axes, curve.assign(epsilon=0.0), [0.0])
    axes.set(xlabel="nominal coverage", ylabel="empirical coverage")
    return figure


def _typicality(table: pd.DataFrame) -> Figure:
    """One row of dots for each check; the left is unusual."""
    single = table[table.observation >= 0]
    kinds = [f"{c} ({s})" for s, c in dict.fromkeys(zip(single.space, single.check, strict=True))]
    figure = new_figure(5.4, 0.35 * len(kinds) + 0.9)
    axes = figure.subplots()
    for place, (_, part) in enumerate(single.groupby(["space", "check"], sort=False)):
        offset = np.linspace(-0.2, 0.2, len(part)) if len(part) > 1 else np.zeros(1)
        axes.plot(part.p_value, place + offset, ".", color=CLEAN, markersize=5, alpha=0.5)
    axes.axvline(0.01, color=MOVED, linewidth=0.9)
    axes.set_xscale("log")
    axes.set_xlim(min(5e-4, 0.7 * float(single.p_value.min())), 1.2)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_xlabel("p-value (left of the line: below 0.01)")
    return figure


def _movement(table: pd.DataFrame, attack: str) -> Figure:
    """KL against the radius: each observation, and the median under attack and under noise."""
    figure = new_figure(4.8, 3.0)
    axes = figure.subplots()
    own = table[table.attack == attack]
    for _, part in list(own.groupby("observation"))[:200]:
        axes.plot(part.epsilon, part.kl_forward, color=MOVED, alpha=0.2, linewidth=0.7)
    for name, color, label in (("noise", CLEAN, "random noise"), (attack, MOVED, attack)):
        median = table[table.attack == name].groupby("epsilon").kl_forward.median()
        if len(median):
            axes.plot(median.index, median, color=color, marker="o", markersize=4, label=label)
    finite = table.kl_forward[(table.kl_forward > 0) & (table.kl_forward < np.inf)]
    if len(finite):
        axes.set_yscale("log")
    axes.axhline(1, color="0.5", linewidth=0.8, linestyle=":")
    axes.set(xlabel="radius epsilon", ylabel="KL(q(.|x) || q(.|x~)), nats")
    axes.legend(title="median of")
    return figure


def _sensitivity(table: pd.DataFrame, most: int = 15) -> Figure:
    """The leading eigenvector of the first observation, its largest components."""
    first = table[table.observation == 0]
    first = first.reindex(first.component.abs().sort_values(ascending=False).index[:most])
    figure = new_figure(4.6, 0.24 * len(first) + 0.8)
    axes = figure.subplots()
    axes.barh(range(len(first)), first.component, color=CLEAN)
    axes.set_yticks(range(len(first)), first.feature)
    axes.set_ylim(len(first) - 0.4, -0.6)
    axes.axvline(0, color="0.6", linewidth=0.6)
    axes.set_xlabel("component of the direction, in the threat's units")
    return figure
