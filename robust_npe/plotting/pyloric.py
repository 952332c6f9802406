"""Fig. 6: the pyloric network, what it does under attack, and what a defense changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

from robust_npe.plotting.coverage import coverage_part
from robust_npe.plotting.style import COLORS, add_caption, new_figure, style
from robust_npe.plotting.tolerance import tolerance_part

__all__ = ["Example", "Scene", "pyloric_figure", "stacked"]

RANGE = (-80.0, 50.0)  # mV
TRACE = 0.8  # height of the observed trace, in heights of the simulations below it


@dataclass(frozen=True)
class Scene:
    """What all examples share.

    Attributes:
        cells: Names of the cells.
        times: Times of the samples of a trace, ms, shape `(T,)`.
        theta: Parameters that generated the observation, shape `(D,)`.
        low: Lower bounds of the prior, shape `(D,)`.
        high: Upper bounds of the prior, shape `(D,)`.
        theta_names: Names of the parameters.
    """

    cells: Sequence[str]
    times: Tensor
    theta: Tensor
    low: Tensor
    high: Tensor
    theta_names: Sequence[str]


@dataclass(frozen=True)
class Example:
    """One defense on one observation, clean and attacked.

    Attributes:
        title: Name of the defense.
        divergence: KL between the two posteriors of this observation, nats.
        x: The observation and the attacked one, `(2, Dx)`.
        samples: Samples of their posteriors, `(2, S, D)`.
        predictive: Simulations with some of these parameters, `(2, n, Dx)`.
    """

    title: str
    divergence: float
    x: Tensor
    samples: Tensor
    predictive: Tensor


def pyloric_figure(
    scene: Scene,
    examples: Sequence[Example],
    table: pd.DataFrame,
    metric: str = "kl_forward",
) -> Figure:
    """Draw predictive simulations, marginals, tolerance and coverage.

    Args:
        scene: What the examples share.
        examples: The same observation and radius for each defense.
        table: Tidy results of the same runs, one for each defense.
        metric: Divergence of the tolerance plot.

    Raises:
        NothingToDrawError: The table lacks the metric, or coverage.
        ValueError: The table mixes settings.
    """
    with style():
        figure = new_figure(10.0, 10.7)
        top, middle, bottom = figure.subfigures(3, 1, height_ratios=[4.6, 3.1, 2.8], hspace=0.02)
        _draw_traces(top, scene, examples)
        _draw_marginals(middle, scene, examples)
        _draw_summary(bottom, table, metric)
    return figure


def _draw_traces(figure: SubFigure, scene: Scene, examples: Sequence[Example]) -> None:
    """A column for each posterior; in each cell's panel, the observation above simulations."""
    columns = [(example, i) for example in examples for i in (0, 1)]
    panels = figure.subplots(len(scene.cells), len(columns), squeeze=False, sharex=True)
    sources = (r"$\theta\sim q(\theta|x)$", r"$\theta\sim q(\theta|\tilde x)$")
    for column, (example, i) in enumerate(columns):
        color = COLORS[("clean", "adversarial")[i]]
        traces = example.x[i].chunk(len(scene.cells))
        simulations = example.predictive[i].chunk(len(scene.cells), dim=-1)
        for row, axes in enumerate(panels[:, column]):
            _draw_cell(axes, scene.times, traces[row], simulations[row], color)
        panels[0, column].set_title(f"{example.title}, {sources[i]}", color=color)
        panels[-1, column].set_xlabel("time (ms)")
    for axes, cell in zip(panels[:, 0], scene.cells, strict=True):
        axes.set_ylabel(cell, fontweight="bold")
    _draw_scale(panels[0, -1], len(examples[0].predictive[0]), float(scene.times[-1]))
    _letter(figure, "A")


def _draw_cell(axes: Axes, times: Tensor, trace: Tensor, simulations: Tensor, color: str) -> None:
    """The observed trace as a line, and below it one row of colour per simulation."""
    count, end = len(simulations), float(times[-1])
    shades = LinearSegmentedColormap.from_list("voltage", ["white", color])
    axes.imshow(
        simulations.numpy(),
        cmap=shades,
        vmin=RANGE[0] + 20,  # rest is white
        vmax=RANGE[1] - 20,
        aspect="auto",
        extent=(0.0, end, count, 0.0),
        interpolation="nearest",
    )
    height = TRACE * count
    scaled = (trace - RANGE[0]) / (RANGE[1] - RANGE[0])
    axes.plot(times.numpy(), -1 - height * scaled.numpy(), color=COLORS["truth"], linewidth=0.7)
    axes.set_ylim(count, -1.2 - height)
    axes.set_xlim(0, end)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.axhline(0, color="0.6", linewidth=0.5)
    axes.axhline(count, color="0.6", linewidth=0.5)


def _draw_scale(axes: Axes, count: int, end: float) -> None:
    """A bar of 50 mV beside the observed trace, and what the rows below it are."""
    height = TRACE * count * 50 / (RANGE[1] - RANGE[0])
    bottom = -1 - 0.4 * TRACE * count
    bar = axes.vlines(1.03 * end, bottom - height, bottom, color=COLORS["truth"], linewidth=1.2)
    bar.set_clip_on(False)
    axes.text(1.05 * end, bottom - height / 2, "50 mV", va="center", fontsize=7)
    text = f"{count} simulations"
    axes.text(1.03 * end, count / 2, text, rotation=270, va="center", fontsize=7)


def _draw_marginals(figure: SubFigure, scene: Scene, examples: Sequence[Example]) -> None:
    """For each parameter, the 5-95 % and 25-75 % intervals in units of the prior's range."""
    panels = figure.subplots(len(examples), 1, squeeze=False, sharex=True)[:, 0]
    position = np.arange(len(scene.theta_names))
    width = scene.high - scene.low
    for axes, example in zip(panels, examples, strict=True):
        for i, (name, label) in enumerate((("clean", "x"), ("adversarial", r"\tilde x"))):
            share = ((example.samples[i] - scene.low) / width).double().numpy()
            q05, q25, q50, q75, q95 = np.quantile(share, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
            where = position + (0.17 if i else -0.17)
            color, text = COLORS[name], rf"$q(\theta|{label})$"
            axes.vlines(where, q05, q95, color=color, linewidth=1)
            axes.vlines(where, q25, q75, color=color, linewidth=3.5, label=text)
            dots = {"markersize": 2.6, "markeredgewidth": 0.6, "markeredgecolor": color}
            axes.plot(where, q50, "o", color="white", **dots)
        truth = ((scene.theta - scene.low) / width).numpy()
        marks = {"marker": "_", "markersize": 10, "markeredgewidth": 1.4, "linestyle": ""}
        axes.plot(position, truth, color=COLORS["truth"], label=r"true $\theta$", **marks)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlim(-0.7, len(position) - 0.3)
        axes.set_yticks([0, 0.5, 1])
        axes.set_title(f"{example.title}: {_moved(example.divergence)} here", loc="right")
    panels[0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    panels[-1].set_xticks(position, scene.theta_names, rotation=90)
    figure.supylabel("share of the prior's range", fontsize=9)
    _letter(figure, "B")


def _moved(divergence: float) -> str:
    """An estimated divergence in words."""
    if divergence <= 0:
        return "divergence below resolution"
    nats = float(f"{divergence:.2g}")
    return rf"$D_{{KL}}(q(\theta|x)\,\|\,q(\theta|\tilde x))$ = {nats:g} nats"


def _draw_summary(figure: SubFigure, table: pd.DataFrame, metric: str) -> None:
    """Tolerance of all defenses, and coverage of each under attack."""
    parts = tolerance_part(table, metric, "defense"), coverage_part(table, "defense")
    places = figure.subfigures(1, 2, width_ratios=[1, 2])
    add_caption(figure, [n for p, place in zip(parts, places, strict=True) for n in p.draw(place)])
    _letter(figure, "C")


def _letter(figure: SubFigure, letter: str) -> None:
    figure.text(0.004, 0.99, letter, fontsize=12, fontweight="bold", va="top")


def stacked(pair: Sequence[Tensor]) -> Tensor:
    """Return what belongs to the clean and to the attacked observation as one tensor."""
    return torch.stack(list(pair)).detach().cpu()
