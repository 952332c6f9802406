"""House style: colours and sizes that readers of the paper know."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure, SubFigure

from robust_npe.files import write_atomically

__all__ = [
    "COLORS",
    "EPSILON_COLORS",
    "NothingToDrawError",
    "add_caption",
    "epsilon_color",
    "legend_entries",
    "line_colors",
    "new_figure",
    "require_one_setting",
    "save_figure",
    "seeds_note",
    "style",
]

COLORS = {
    "clean": "#08519c",
    "adversarial": "#d94801",
    "truth": "#000000",
    "pgd": "#023858",
    "fgsm": "#3690c0",
    "noise": "#a6bddb",
    "none": "#0868ac",
    "fim": "#8856a7",
    "fim_eigenvalue": "#4a1486",
    "adversarial_training": "#df65b0",
    "trades": "#2ca25f",
}
"""Colour by attack and by defense."""

EPSILON_COLORS = {
    0.0: "#252525",
    0.1: "#feb24c",
    0.2: "#fd8d3c",
    0.3: "#fc4e2a",
    0.5: "#e31a1c",
    1.0: "#bd0026",
    2.0: "#800026",
}
"""Colour by radius, for the published radii."""

SETTINGS = (
    "estimator",
    "defense",
    "beta",
    "defense_epsilon",
    "defense_settings",
    "num_simulations",
    "attack",
    "norm",
    "objective",
    "attack_settings",
    "domain",
    "epsilon_unit",
)
"""Columns of the results in which runs must agree before they are averaged."""

_RC = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "legend.frameon": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "savefig.dpi": 200,
    "savefig.bbox": "tight",
}


class NothingToDrawError(ValueError):
    """A table has no rows of what a plot shows."""


def epsilon_color(epsilon: float, epsilons: list[float]) -> object:
    """Return the colour of a radius; unpublished ones are placed on the same ramp."""
    if set(epsilons) <= set(EPSILON_COLORS):
        return EPSILON_COLORS[epsilon]
    if epsilon == 0:
        return EPSILON_COLORS[0.0]
    others = sorted(e for e in epsilons if e > 0)
    position = 0.4 + 0.6 * others.index(epsilon) / max(1, len(others) - 1)
    return mpl.colormaps["YlOrRd"](position)


def line_colors(labels: Iterable[str]) -> dict[str, str]:
    """Return a colour for each line of a plot.

    Lines of one attack or defense with different settings, such as "fim beta=0.01", are shades of
    its colour; what has no colour in this style takes one that nothing else has.

    Args:
        labels: Names of lines: what is in `COLORS`, alone or followed by a space and settings.
    """
    families: dict[str, list[str]] = {}
    for label in labels:
        families.setdefault(label.split(" ")[0], []).append(label)
    spare = cycle(mpl.color_sequences["Dark2"][2:])
    colors = {}
    for family, members in families.items():
        base = to_rgb(COLORS.get(family) or next(spare))
        for i, label in enumerate(members):
            lightness = 0.6 * (1 - (i + 1) / len(members))  # the last one is the colour itself
            red, green, blue = (c + (1 - c) * lightness for c in base)
            colors[label] = to_hex((red, green, blue))
    return colors


@contextmanager
def style() -> Iterator[None]:
    """Draw in the house style, leaving matplotlib's global settings alone."""
    with mpl.rc_context(_RC):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return a figure (sizes in inches) that belongs to no window and no global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def add_caption(figure: Figure | SubFigure, notes: Iterable[str]) -> None:
    """Write below a figure what its reader must know, each note once."""
    characters = int(20 * figure.bbox.width / figure.dpi)
    text = fill(" ".join(dict.fromkeys(notes)), characters)
    figure.supxlabel(text, x=0.01, ha="left", fontsize=7, color="0.35")


def seeds_note(table: pd.DataFrame) -> list[str]:
    """Return what is drawn where runs differ by their seed, for the caption."""
    return ["Means over seeds."] if table.seed.nunique() > 1 else []


def legend_entries(panels: Iterable[Axes], order: Iterable[str]) -> tuple[list[Artist], list[str]]:
    """Return handles and labels of all panels, each label once, in the order given."""
    entries: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    drawn = [label for label in order if label in entries]
    return [entries[label] for label in drawn], drawn


def require_one_setting(table: pd.DataFrame, where: str) -> None:
    """Refuse to average over anything but seeds of the training.

    Raises:
        ValueError: The rows that a line is drawn from differ in a setting, which is named.
    """
    for name in [s for s in SETTINGS if s in table]:
        values = table[name].unique()
        if len(values) > 1:
            raise ValueError(
                f"The rows for {where} mix {name} {', '.join(map(str, values))}: "
                "select one of them before plotting."
            )


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure atomically; the format follows the file's suffix."""
    settings: dict[str, Any] = {"format": path.suffix[1:], "metadata": {"Software": None}}
    with style():
        write_atomically(path, lambda file: figure.savefig(file, **settings))
