"""Bayesian classifiers: what attacks leave, how gradients shrink, accuracy against robustness."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from robust_npe.plotting.cells import NothingToDrawError, require_one
from robust_npe.plotting.columns import tidy
from robust_npe.plotting.layout import Part, add_legend, figure_of
from robust_npe.plotting.lines import log_limits
from robust_npe.plotting.names import count_text, number_text, task_name
from robust_npe.plotting.style import COLORS, Look, letter_panels, line_looks

__all__ = ["gradients_figure", "suite_figure", "tradeoff_figure"]

ATTACKS = {
    "clean": "clean",
    "random_signs": "random\nsigns",
    "published_fgsm": "FGSM\npublished",
    "published_pgd": "PGD\npublished",
    "fgsm": "FGSM",
    "pgd": "PGD",
    "fresh_pgd": "PGD,\nfresh draws",
    "worst": "worst\ncase",
}
INFERENCE = {
    "sgd": "SGD",
    "ensemble": "ensemble",
    "swag": "SWAG",
    "vi": "VI",
    "vi_published": "VI as published",
    "hmc": "HMC",
}
STANDARD = "standard"  # the prior N(0, 1), among settings
UNCONVERGED = "†: the sampler has not converged (R-hat above 1.1, or divergences)."
HOLLOW = "Hollow: the sampler has not converged (R-hat above 1.1, or divergences)."
HOLLOWED = "osD^v<"  # markers that show whether they are filled
CLOSE = 0.9  # from which on an axis of shares need not begin at 0
SPREAD = "Accuracies are spread near 1."
TICKS = (0.5, 0.7, 0.9, 0.97, 0.99, 1.0)  # accuracies
NEAR_ONE = 0.01  # error below which the axis of accuracies is linear
ONE = ("task", "epsilon", "num_simulations", "seed")  # columns with one value in a figure


@tidy
def suite_figure(table: pd.DataFrame) -> Figure:
    """Draw the accuracies that attacks leave as a table of shaded cells, with a verdict.

    Args:
        table: From `robust_npe.recipes.bnn.suite_table`.

    Raises:
        NothingToDrawError: The table is empty.
        ValueError: It mixes tasks, radii, numbers of simulations or seeds; the column is named.
    """
    if table.empty:
        raise NothingToDrawError("no classifiers")
    require_one(table, "the figure", ONE)
    order = {name: i for i, name in enumerate(INFERENCE)}  # others come last
    table = table.sort_values("inference", key=lambda column: column.map(order), kind="stable")

    def draw(place: SubFigure) -> list[str]:
        grid = place.subplots(1, 2, width_ratios=(1.5, 1), sharey=True, squeeze=False)
        cells, words = grid[0]
        values = table[[*ATTACKS]].to_numpy()
        cells.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            color = "white" if value > 0.72 else "black"
            look: dict[str, Any] = {"ha": "center", "va": "center", "color": color, "fontsize": 6}
            cells.text(j, i, f"{value:.2f}", **look)
        cells.set_xticks(
            range(len(ATTACKS)), [*ATTACKS.values()], fontsize=6, rotation=40, ha="right"
        )
        cells.set_yticks(range(len(table)), [_row_name(row) for _, row in table.iterrows()])
        cells.tick_params(length=0)
        words.axis("off")
        for i, text in enumerate(table.verdict):
            words.text(0, i, text.replace(": ", ":\n", 1), va="center", fontsize=6)
        return _suite_notes(table)

    return figure_of([Part(draw, 9.0 * len(table) + 14)])


def _suite_notes(table: pd.DataFrame) -> list[str]:
    first = table.iloc[0]
    what = f"{task_name(first.task)}, {_setup(table)}"
    radius = f"radius {first.epsilon:g} (L∞)"
    published = "Published: of the cross-entropy of probabilities, as the research code computes."
    worst = "Worst case: of all attacks, for each observation."
    notes = [f"Accuracy left by attacks. {what}; {radius}.", published, worst]
    return [*notes, UNCONVERGED] if (table.converged == 0).any() else notes


def _row_name(row: pd.Series) -> str:
    return f"{_name(row)}{'†' if row.converged == 0 else ''}"


def _name(row: pd.Series) -> str:
    prior = ", N(0, 1)" if STANDARD in row.settings else ""
    return INFERENCE.get(row.inference, row.inference) + prior


@tidy
def gradients_figure(table: pd.DataFrame) -> Figure:
    """Draw the expected gradient against the number of draws, one column for each prior, and what
    single gradients keep of their size when they are averaged over all draws, against width.

    Args:
        table: From `robust_npe.recipes.bnn.gradients_table`.

    Raises:
        NothingToDrawError: The table is empty.
        ValueError: It mixes tasks, ways of inference or seeds; the column is named.
    """
    if table.empty:
        raise NothingToDrawError("no expected gradients")
    require_one(table, "the figure", ("task", "inference", "seed"))
    table = table.assign(
        line=table.hidden + ", " + table.num_simulations.map(count_text) + " pairs",
        prior=table.settings.map(lambda s: "N(0, 1) prior" if STANDARD in s else "fan-in prior"),
    )
    table = table.sort_values(["hidden", "num_simulations"], key=_first_numbers)
    lines = list(table.line.unique())
    looks = {
        line: look._replace(marker=marker)
        for (line, look), marker in zip(line_looks(lines).items(), cycle(HOLLOWED))
    }

    def draw(place: SubFigure) -> list[str]:
        priors = sorted(table.prior.unique())
        panels = place.subplots(1, len(priors) + 1, squeeze=False)[0]
        for prior, axes in zip(priors, panels, strict=False):
            for line in lines:
                rows = table[(table.prior == prior) & (table.line == line)].sort_values("draws")
                look: dict[str, Any] = {**looks[line]._asdict(), "label": line, "markersize": 3}
                hollow = {"markerfacecolor": "white"} if (rows.converged == 0).any() else {}
                axes.plot(rows.draws, rows["mean"], **look, **hollow)
            axes.set(xscale="log", xlabel="draws of the weights", title=prior)
            log_limits(axes, table["mean"].to_numpy())
            axes.set_xticks(decades := [n for n in (1, 10, 100) if n <= table.draws.max()], decades)
        panels[0].set_ylabel(r"$\|E\,\nabla_x \mathrm{loss}\|_\infty$, mean")
        _draw_kept(panels[-1], table)
        letter_panels(panels)
        add_legend(part, place, panels[:1])
        return _gradient_notes(table)

    part = Part(draw, 48, lines)
    return figure_of([part])


def _draw_kept(axes: Axes, table: pd.DataFrame) -> None:
    """Size of the expected gradient over the mean size of single ones; 0 if they cancel."""
    rows = table.sort_values("draws").drop_duplicates("run_id", keep="last")
    rows = rows.assign(width=rows.hidden.map(lambda h: _numbers(h)[0]))
    rows = rows.assign(kept=rows["mean"] / rows.single)
    looks = Look(COLORS["clean"], "o"), Look(COLORS["adversarial"], "s")
    for (prior, own), look in zip(rows.groupby("prior"), looks, strict=False):
        for (pairs, part), line in zip(own.groupby("num_simulations"), ("--", "-"), strict=False):
            part = part.sort_values("width")
            label = f"{prior}, {count_text(float(str(pairs)))} pairs"
            style: dict[str, Any] = {**look._asdict(), "markersize": 3}
            axes.plot(part.width, part.kept, line, label=label, **style)
            lost = part[part.converged == 0]
            axes.plot(lost.width, lost.kept, linestyle="none", markerfacecolor="white", **style)
    lowest = 0.8 if rows.kept.min() > CLOSE else 0.0
    axes.set(xscale="log", xlabel="width", ylim=(lowest, 1.05 - lowest / 20))
    axes.set_ylabel(r"$\|E\,\nabla_x\| \,/\, E\,\|\nabla_x\|$")
    axes.set_xticks(sorted(rows.width.unique()), sorted(rows.width.unique()))
    axes.minorticks_off()
    axes.legend(loc="lower left", handlelength=3.0)


def _setup(table: pd.DataFrame) -> str:
    """Number of pairs if there is one, seed and scale."""
    counts = table.num_simulations.unique()
    words = [f"{counts[0]:g} training pairs"] if len(counts) == 1 else []
    words += [f"seed {table.seed.iloc[0]:g}"]
    return ", ".join(words + ([f"{table.scale.iloc[0]} scale"] if "scale" in table else []))


def _gradient_notes(table: pd.DataFrame) -> list[str]:
    runs, inference = table.drop_duplicates("run_id"), str(table.inference.iloc[0])
    zero, double = (100 * runs[c].max() for c in ("zero_single", "zero_single_float64"))
    share, rhat = 100 * (runs.converged == 0).mean(), runs.rhat.median()
    return [
        f"{task_name(str(table.task.iloc[0]))}, {_setup(table)}; "
        f"{INFERENCE.get(inference, inference)}. A, B: "
        "largest element of the gradient of the loss, expected over draws of the weights; means "
        "over observations.",
        "C: size of the expected gradient over that of single ones; where they cancel it is 0.",
        f"At most {zero:.2g} % of single gradients are exactly zero in float32, {double:.2g} % in "
        f"float64. {share:.0f} % of the samplers have not converged (median R-hat {rhat:.2g}).",
        *([HOLLOW] if share else []),
    ]


def _first_numbers(column: pd.Series) -> pd.Series:
    return column.astype(str).map(lambda text: _numbers(text)[0])


def _numbers(text: str) -> list[int]:
    return [int(n) for n in "".join(c if c.isdigit() else " " for c in text).split()]


@tidy
def tradeoff_figure(table: pd.DataFrame) -> Figure:
    """Draw robustness against accuracy, one point for each network, two measures of robustness.

    Args:
        table: From `robust_npe.recipes.bnn.tradeoff_table`.

    Raises:
        NothingToDrawError: The table is empty.
        ValueError: As for `suite_figure`.
    """
    if table.empty:
        raise NothingToDrawError("no networks")
    require_one(table, "the figure", ONE)
    table = table.assign(line=[_name(row) for _, row in table.iterrows()])
    lines = sorted(table.line.unique(), reverse=True)
    looks = line_looks(lines)

    def draw(place: SubFigure) -> list[str]:
        panels = place.subplots(1, 2, squeeze=False)[0]
        measures = {"softmax_robustness": "softmax robustness", "attacked": "accuracy under attack"}
        letter_panels(panels)
        for axes, (column, label) in zip(panels, measures.items(), strict=True):
            for line in lines:
                rows = table[table.line == line]
                points: dict[str, Any] = {"linestyle": "none", "markersize": 3, "alpha": 0.6}
                points |= {**looks[line]._asdict(), "markeredgewidth": 0.6}
                for lost, own in rows.groupby(rows.converged == 0):
                    filled = {"markerfacecolor": "none"} if lost else {}
                    axes.plot(own.accuracy, own[column], label=line, **points, **filled)
            axes.set(xlabel="accuracy", ylabel=label)
            _spread_near_one(axes, table.accuracy)
        add_legend(part, place, panels[:1])
        return [_tradeoff_note(table, lines)]

    part = Part(draw, 56, lines)
    return figure_of([part])


def _spread_near_one(axes: Axes, accuracy: pd.Series) -> None:
    """Spread the accuracies of an axis by the errors that they leave."""
    functions = (
        lambda a: -np.arcsinh((1 - np.asarray(a)) / NEAR_ONE),
        lambda v: 1 - NEAR_ONE * np.sinh(-np.asarray(v)),
    )
    axes.set_xscale("function", functions=functions)
    ticks = [tick for tick in TICKS if tick > accuracy.min() - 0.1]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlim(accuracy.min() - 0.05, 1.001)


def _tradeoff_note(table: pd.DataFrame, lines: list[str]) -> str:
    """Rank correlations of accuracy and robustness, and how many samplers did not converge."""
    told = []
    for line in lines:
        rows = table[table.line == line]
        enough = len(rows) > 2 and rows.accuracy.nunique() > 1
        rank = rows.accuracy.corr(rows.softmax_robustness, method="spearman") if enough else np.nan
        told.append(f"{line} {number_text(rank, '.2f')} ({len(rows)} networks)")
    sampled = table.converged.dropna()
    lost = int((sampled == 0).sum())
    unconverged = f" {lost} of {len(sampled)} samplers have not converged."
    unconverged += f" {HOLLOW}" if lost else ""
    first = table.iloc[0]
    what = f"{task_name(first.task)}, {_setup(table)}"
    setup = f"Each point: a network. {what}; PGD, radius {first.epsilon:g} (L∞). {SPREAD}"
    ranks = "Rank correlation (Spearman) of accuracy and softmax robustness:"
    return f"{setup} {ranks} {'; '.join(told)}." + (unconverged if len(sampled) else "")
