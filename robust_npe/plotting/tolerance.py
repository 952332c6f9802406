"""Tolerance plot: how far the posterior moves against how far the observation was moved."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robust_npe.plotting.style import COLORS, line_colors, new_figure, require_one_setting, style

__all__ = ["draw_tolerance", "tolerance_plot"]

LABELS = {
    "kl_forward": r"$D_{KL}(q(\theta|x)\,\|\,q(\theta|\tilde x))$",
    "kl_reverse": r"$D_{KL}(q(\theta|\tilde x)\,\|\,q(\theta|x))$",
}


def tolerance_plot(
    table: pd.DataFrame, metric: str = "kl_forward", compare: str = "attack"
) -> Figure:
    """Draw a divergence against epsilon, one panel per task and one line per attack or defense.

    Points are medians over observations, bars the 15 and 85 % quantiles; where several runs share
    a panel and a line, they must differ by nothing but the seed, and their mean is drawn. Dashed:
    how far the true posterior itself moves under the same perturbations, where that is known.

    Args:
        table: Tidy results of one or more runs.
        metric: `kl_forward` or `kl_reverse`.
        compare: What the lines are: a column such as `attack`, `defense` or `beta`.

    Raises:
        ValueError: The table has no rows of this metric, or a line would mix settings.
    """
    attacked = table[table.attack != "none"]
    tasks = list(dict.fromkeys(attacked[attacked.metric == metric].task))
    if not tasks:
        raise ValueError(f"The table has no rows with metric={metric!r} of an attack.")
    with style():
        figure = new_figure(2.6 * len(tasks) + 1.6, 2.4)
        panels = figure.subplots(1, len(tasks), squeeze=False)[0]
        for axes, task in zip(panels, tasks, strict=True):
            draw_tolerance(axes, attacked[attacked.task == task], metric, compare)
            axes.set_title(task)
        # outside, where it covers no point
        longest = max(panels, key=lambda axes: len(axes.get_legend_handles_labels()[1]))
        figure.legend(*longest.get_legend_handles_labels(), loc="outside right center")
        panels[0].set_ylabel(LABELS.get(metric, metric))
    return figure


def draw_tolerance(axes: Axes, table: pd.DataFrame, metric: str, compare: str) -> None:
    """Draw one panel: equally spaced radii, logarithmic divergence."""
    epsilons = sorted(table.epsilon.unique())
    position = {epsilon: i for i, epsilon in enumerate(epsilons)}
    wanted = table[table.metric.isin([metric, "legitimate_movement"])]
    groups = list(wanted.groupby(compare, dropna=False))
    colors = line_colors(str(name) for name, _ in groups)
    for i, (name, group) in enumerate(groups):
        require_one_setting(group, f"{compare} {name}")
        lines = group[group.metric == metric]
        median, low, high = (_by_epsilon(lines, s) for s in ("median", "q15", "q85"))
        shift = 0.12 * (i - (len(groups) - 1) / 2)
        x = [position[e] + shift for e in median.index]
        error = [(median - low).clip(lower=0), (high - median).clip(lower=0)]
        bars = axes.errorbar(
            x,
            median,
            yerr=error,
            marker="o",
            markersize=3,
            linewidth=1.2,
            elinewidth=0.8,
            color=colors[str(name)],
            label=str(name),
        )
        moves = _by_epsilon(group[group.metric == "legitimate_movement"], "median")
        if len(moves):
            x = [position[e] + shift for e in moves.index]
            axes.plot(x, moves, "--", color=bars[0].get_color(), linewidth=1)
    if (wanted.metric == "legitimate_movement").any():
        axes.plot([], [], "--", color=COLORS["truth"], linewidth=1, label="true posterior")
    axes.set_yscale("log")
    axes.set_xticks(range(len(epsilons)), [f"{e:g}" for e in epsilons])
    axes.set_xlabel(rf"$\epsilon$ ({table.epsilon_unit.iloc[0]}, {table.norm.iloc[0]})")


def _by_epsilon(table: pd.DataFrame, statistic: str) -> pd.Series:
    return table[table.statistic == statistic].groupby("epsilon").value.mean()
