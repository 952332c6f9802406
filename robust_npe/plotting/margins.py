"""Margins of encoders: bounds against what was measured, and what they depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter
from scipy.stats import spearmanr

from robust_npe.plotting.cells import NothingToDrawError, require_one
from robust_npe.plotting.columns import tidy
from robust_npe.plotting.describing import attack_note, training_note
from robust_npe.plotting.layout import Part, add_legend, figure_of
from robust_npe.plotting.names import count_text, number_text, task_name, unit_name
from robust_npe.plotting.style import COLORS, Look, line_looks

__all__ = ["images_figure", "margins_figure"]

COMMON = ("task", "defense", "num_simulations", "attack", "norm", "epsilon", "epsilon_unit")
BOUNDS = {
    "margin_published": ("published bound", Look("#a6bddb", "o")),
    "margin_spectral": ("spectral bound", Look(COLORS["clean"], "s")),
    "margin_fisher_rao": ("Fisher-Rao bound", Look(COLORS["fim"], "D")),
}
MEASURED = "measured"
DECADES = 10.0 ** np.arange(-4, 4)
LOWEST = 1e-3  # of what is drawn of a bound, which may be 0
POINTS: dict[str, Any] = {
    "linestyle": "none",
    "markersize": 2.5,
    "alpha": 0.6,
    "markeredgewidth": 0,
}
IMAGES = {
    "original": "original",
    "perturbed": "perturbed",
    "perturbation": "perturbation",
    "reconstruction": "reconstruction",
    "attacked": "reconstruction,\nattacked",
}
NOTE = (
    "Margin: radius up to which more than half of the draws are reconstructed within r of what is "
    "right. Bounds are of first order, not certificates; measured: the smallest radius at which an "
    "attack succeeded, an upper estimate, sought beyond the radius below. Each point is an image; "
    "in the titles, rank correlation (Spearman) of spectral bound and published bound with what "
    "was measured. Margins and bounds are in units of x, as the radius."
)
BELOW = (
    "Measured margin and likelihood lost at the radius, each point an image; medians over images "
    "(whiskers: range over seeds) against the weight β of the KL, bounds as in A; a median that is "
    "missing is infinite: nothing broke."
)


@tidy
def margins_figure(table: pd.DataFrame) -> Figure:
    """Draw bounds against measured margins for each weight of the KL, and what depends on it.

    Args:
        table: From `robust_npe.recipes.margins.margins_table`.

    Raises:
        NothingToDrawError: The table is empty.
        ValueError: It mixes settings; the column is named.
    """
    if table.empty:
        raise NothingToDrawError("no margins")
    require_one(table, "the figure", COMMON)
    names = [label for label, _ in BOUNDS.values()]
    weights = [f"β = {weight:g}" for weight in sorted(_finite(table).kl_weight.unique())]

    def scatter(place: SubFigure) -> list[str]:
        _draw_bounds(place, table)
        add_legend(parts[0], place, place.axes)
        return [NOTE]

    def depending(place: SubFigure) -> list[str]:
        panels = place.subplots(1, 4, squeeze=False)[0]
        _draw_degradation(panels[0], table)
        _draw_by_weight(panels[1:], table)
        add_legend(parts[1], place, panels[:2])
        return [BELOW]

    parts = [Part(scatter, 44, names), Part(depending, 42, [*weights, MEASURED])]
    return figure_of(parts, _margin_notes(table))


def _margin_notes(table: pd.DataFrame) -> list[str]:
    first, infinite = table.iloc[0], int(np.isinf(table.margin_upper).sum())
    lost = (
        f" No attack succeeded on {infinite} of {count_text(len(table))} images."
        if infinite
        else ""
    )
    return [f"{task_name(first.task)}; {attack_note(first)}.{lost}", _training(table)]


def _draw_bounds(place: SubFigure, table: pd.DataFrame) -> None:
    """One panel for each weight, logarithmic, with the diagonal."""
    groups = [*table.groupby("kl_weight")]
    panels = place.subplots(1, len(groups), squeeze=False, sharex=True, sharey=True)[0]
    finite = _finite(table)
    finite = table.assign(margin_upper=1.0) if finite.empty else finite  # axes need some ends
    low, high = finite[[*BOUNDS]].clip(lower=LOWEST).min().min(), finite.margin_upper.max()
    for (weight, rows), axes in zip(groups, panels, strict=True):
        shown = _finite(rows)
        for name, (label, look) in BOUNDS.items():
            points: dict[str, Any] = {"color": look.color, "marker": look.marker, **POINTS}
            axes.plot(shown.margin_upper, shown[name].clip(lower=low), label=label, **points)
        axes.plot((low, high), (low, high), color="0.4", linewidth=0.7, zorder=0)
        if shown.empty:
            axes.text(0.5, 0.3, "nothing broke", ha="center", transform=axes.transAxes, fontsize=7)
        ranks = ", ".join(_rank(rows, name) for name in ("margin_spectral", "margin_published"))
        axes.set_title(f"β = {weight:g} ({ranks})")
        _logarithmic(axes, x="measured margin")
        axes.set(xlim=(0.8 * finite.margin_upper.min(), 1.25 * high), ylim=(0.8 * low, 1.25 * high))
    panels[0].set_ylabel("lower bound")


def _finite(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows that a logarithmic axis can show."""
    return rows[np.isfinite(rows.margin_upper) & (rows.margin_upper > 0)]


def _logarithmic(axes: Axes, x: str, y: str = "") -> None:
    """Logarithmic axes with few and plain numbers at their ticks."""
    if not np.isfinite(axes.dataLim.get_points()).all():  # nothing is drawn: any ends will do
        axes.set(xlim=(0.5, 2.0), ylim=(0.5, 2.0))
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        factors = (1, 2, 5) if high < 10 * low else (1, 3)
        axis.set_major_locator(FixedLocator([*np.outer(factors, DECADES).flat]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _rank(rows: pd.DataFrame, name: str) -> str:
    """Rank correlation of a bound with the measured margin, infinite ones the largest."""
    constant = rows[name].nunique() < 2 or rows.margin_upper.nunique() < 2
    if constant:
        return "none"
    return number_text(spearmanr(rows[name], rows.margin_upper).statistic, ".2f")


def _draw_degradation(axes: Axes, table: pd.DataFrame) -> None:
    looks = line_looks([f"{w:g}" for w in sorted(table.kl_weight.unique())], ordered=True)
    for weight, rows in table.groupby("kl_weight"):
        look = looks[f"{weight:g}"]
        shown, points = _finite(rows), {"color": look.color, "marker": look.marker, **POINTS}
        label = f"β = {weight:g}"
        axes.plot(shown.margin_upper, shown.likelihood_degradation, label=label, **points)
    _logarithmic(axes, "measured margin", "log likelihood lost,\nrelative")


def _draw_by_weight(panels: Any, table: pd.DataFrame) -> None:
    """Medians over images against the weight: margins, variance and Jacobian of the encoder."""
    margins = {name: ("", look) for name, (_, look) in BOUNDS.items()}
    margins["margin_upper"] = (MEASURED, Look(COLORS["adversarial"], "P"))
    lines = [
        margins,
        {"encoder_variance": ("", Look("0.35", "o"))},
        {"jacobian_norm": ("", Look("0.35", "o"))},
    ]
    labels = ("median margin", r"encoder variance $\sigma^2$", r"Jacobian $\|J\|_F$")
    for axes, columns, label in zip(panels, lines, labels, strict=True):
        for name, (told, look) in columns.items():
            keys: dict[str, Any] = {"index": "kl_weight", "columns": "seed", "values": name}
            medians = table.pivot_table(**keys, aggfunc="median").replace(np.inf, np.nan).dropna()
            mean = medians.mean(axis=1)
            bars = np.array([mean - medians.min(axis=1), medians.max(axis=1) - mean])
            style: dict[str, Any] = {"color": look.color, "marker": look.marker, "markersize": 3}
            style |= {"linewidth": 1, "elinewidth": 0.8, "label": told}
            axes.errorbar(medians.index, mean, yerr=bars, **style)
        weights = sorted(table.kl_weight.unique())
        _logarithmic(axes, "β", label)
        axes.set_xticks(weights, [f"{w:g}" for w in weights])


def _training(table: pd.DataFrame) -> str:
    return training_note(table).replace("simulations", "images for training")


@tidy
def images_figure(table: pd.DataFrame) -> Figure:
    """Draw images and their reconstructions, clean and attacked, one observation in each row.

    Args:
        table: From `robust_npe.recipes.margins.margin_images`.

    Raises:
        NothingToDrawError: The table is empty.
        ValueError: It mixes settings; the column is named.
    """
    if table.empty:
        raise NothingToDrawError("no images")
    require_one(table, "the figure", (*COMMON, "kl_weight", "seed"))
    numbers = [*dict.fromkeys(table.observation)]

    def draw(place: SubFigure) -> list[str]:
        grid = place.subplots(len(numbers), len(IMAGES), squeeze=False)
        for i, (number, panels) in enumerate(zip(numbers, grid, strict=True)):
            rows = table[table.observation == number]
            for (name, title), axes in zip(IMAGES.items(), panels, strict=True):
                _draw_image(axes, rows[rows.image == name], signed=name == "perturbation")
                if i == 0:
                    axes.set_title(title)
            panels[0].set_ylabel(f"margin {rows.margin_upper.iloc[0]:.2g}")
        first = table.iloc[0]
        what = f"β = {first.kl_weight:g}; {attack_note(first)}"
        told = "The image with the largest measured margin, and that with the smallest."
        signs = (
            "Perturbation: red is darker, blue lighter, full colour its largest pixel. "
            f"Margins, beside the rows: in {unit_name(table)}."
        )
        return [told, signs, f"{task_name(first.task)}, {what}.", _training(table)]

    return figure_of([Part(draw, 33.0 * len(numbers) + 6)])


def _draw_image(axes: Axes, rows: pd.DataFrame, signed: bool) -> None:
    pixels = rows.pivot_table(index="row", columns="column", values="value").to_numpy()
    size = np.abs(pixels).max() if signed else 1.0
    look: dict[str, Any] = {"cmap": "RdBu_r" if signed else "gray_r", "vmax": size}
    axes.imshow(pixels, vmin=-size if signed else 0.0, **look)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
