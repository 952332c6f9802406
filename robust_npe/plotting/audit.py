"""Pictures of an audit, drawn from its tables."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from robust_npe.plotting.audit_stages import stages
from robust_npe.plotting.coverage import draw_curves
from robust_npe.plotting.style import COLORS, new_figure, style
from robust_npe.tasks import Task

__all__ = ["figures", "png"]

DPI = 100
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
        Figures by name: `coverage`, `typicality`, `movement`, `sensitivity`; and for each
        pictured observation and radius `x_<i>_<k>`, `posterior_<i>_<k>`, `predictive_<i>_<k>`,
        where k counts radii from 0, which is x itself (see `stage_name`).
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
        drawn.update(stages(tables, task))
    return drawn


def png(figure: Figure) -> bytes:
    """Return a figure as a small png file: 256 colours are enough for lines and dots."""
    from PIL import Image  # comes with matplotlib

    raw, small = BytesIO(), BytesIO()
    with style():
        figure.savefig(raw, format="png", dpi=DPI, metadata={"Software": None})
    Image.open(raw).convert("RGB").quantize(64).save(small, "png", optimize=True)
    return small.getvalue()


def _coverage(curve: pd.DataFrame) -> Figure:
    figure = new_figure(2.9, 2.9)
    axes = figure.add_subplot()
    draw_curves(axes, curve.assign(epsilon=0.0), [0.0])
    axes.set(xlabel="nominal coverage", ylabel="empirical coverage")
    return figure


def _typicality(table: pd.DataFrame) -> Figure:
    """One row of dots for each check; the left is unusual."""
    single = table[table.observation >= 0]
    kinds = [f"{c} ({s})" for s, c in dict.fromkeys(zip(single.space, single.check, strict=True))]
    figure = new_figure(5.4, 0.35 * len(kinds) + 0.9)
    axes = figure.add_subplot()
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
    axes = figure.add_subplot()
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
    axes = figure.add_subplot()
    axes.barh(range(len(first)), first.component, color=CLEAN)
    axes.set_yticks(range(len(first)), first.feature)
    axes.set_ylim(len(first) - 0.4, -0.6)
    axes.axvline(0, color="0.6", linewidth=0.6)
    axes.set_xlabel("component of the direction, in the threat's units")
    return figure
