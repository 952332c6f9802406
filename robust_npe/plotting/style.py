"""House style: sizes, colours and looks that readers of the paper know."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import cycle
from string import ascii_uppercase
from textwrap import wrap
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.font_manager import FontProperties, findfont, get_font

__all__ = [
    "CAPTION",
    "COLORS",
    "EPSILON_COLORS",
    "MARKERS",
    "MM",
    "ONE_COLUMN",
    "TWO_COLUMNS",
    "Look",
    "add_caption",
    "add_letter",
    "epsilon_color",
    "letter_panels",
    "line_colors",
    "line_looks",
    "new_figure",
    "style",
]

MM = 1 / 25.4
"""Inches."""

ONE_COLUMN, TWO_COLUMNS = 85 * MM, 170 * MM
"""Widths of printed figures, inches."""

COLORS = {
    "clean": "#08519c",
    "adversarial": "#d94801",
    "truth": "#000000",
    "auto-1": "#000000",
    "paper_pgd": "#3690c0",
    "pgd": "#023858",
    "fgsm": "#67a9cf",
    "noise": "#a6bddb",
    "none": "#0868ac",
    "fim": "#8856a7",
    "fim_eigenvalue": "#4a1486",
    "adversarial_training": "#df65b0",
    "trades": "#2ca25f",
}
"""Colour by attack and by defense."""

SPARE = ("#8c2d04", "#e6ab02", "#525252", "#d95f02", "#1b9e77", "#7570b3", "#e7298a")
"""Of what has no colour: neighbours differ in lightness, and all from the colours of defenses."""

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

MARKERS = "osDvPXph<"
"""Of lines, in order: what tells them apart in greyscale."""

_RC = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "legend.frameon": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # TrueType: text stays text, and journals accept it
}

LIGHT = 2.0  # sum of red, green and blue

CAPTION = "caption"
"""`gid` of the text that `add_caption` draws."""
CAPTION_SIZE = 7


class Look(NamedTuple):
    """How a line is told from others, in colour and without."""

    color: str
    marker: str


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
    its colour, dark for the last; what has no colour in this style takes one that nothing else has.

    Args:
        labels: Names of lines: what is in `COLORS`, alone or followed by a space and settings.
    """
    families: dict[str, list[str]] = {}
    for label in labels:
        families.setdefault(label.split(" ")[0], []).append(label)
    spare = cycle(SPARE)
    colors = {}
    for family, members in families.items():
        base = to_rgb(COLORS.get(family) or next(spare))
        light = sum(base) > LIGHT  # its shades are darker, or they would vanish on paper
        for i, label in enumerate(members):
            share = i / len(members) if light else 0.6 * (1 - (i + 1) / len(members))
            toward = 0.0 if light else 1.0
            red, green, blue = (c + (toward - c) * share for c in base)
            colors[label] = to_hex((red, green, blue))
    return colors


def line_looks(labels: Iterable[str], ordered: bool = False) -> dict[str, Look]:
    """Return a colour and a marker for each line of a plot.

    Args:
        labels: Names of lines.
        ordered: Whether they are values of one setting from small to large, which get a ramp;
            `nan`, the line without the setting, gets the colour of no defense.
    """
    names = [*dict.fromkeys(labels)]
    if ordered:
        steps = [name for name in names if name != "nan"]
        ramp = mpl.colormaps["viridis_r"]
        count = len(steps)
        shares = [0.15 + 0.85 * i / (count - 1) for i in range(count)] if count > 1 else [0.6]
        colors = {n: to_hex(ramp(share)) for n, share in zip(steps, shares, strict=True)}
        colors["nan"] = COLORS["none"]
    else:
        colors = line_colors(names)
    return {name: Look(colors[name], marker) for name, marker in zip(names, cycle(MARKERS))}


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
    """Write below a figure what its reader must know, each note once.

    `save_figure` writes it into the file's metadata, too.
    """
    lines = _wrapped(" ".join(dict.fromkeys(notes)), figure.bbox.width / figure.dpi)
    look: dict[str, Any] = {"fontsize": CAPTION_SIZE, "color": "0.35"}
    text = figure.supxlabel("\n".join(lines), x=0.01, ha="left", **look)
    text.set_gid(CAPTION)


def _wrapped(text: str, width: float) -> list[str]:
    """Return the lines of a caption so wide (inches), whose letters differ in width."""
    font = get_font(findfont(FontProperties()))
    font.set_size(CAPTION_SIZE, 72)

    def is_wider(line: str) -> bool:
        font.set_text(line)
        return bool(font.get_width_height()[0] / 64 > 0.985 * 72 * width)

    for count in range(int(19.5 * width), 1, -1):
        lines = wrap(text, count)
        if not any(map(is_wider, lines)):
            break
    return lines


def add_letter(figure: Figure | SubFigure, letter: str) -> None:
    """Write the letter of a panel into the upper left corner."""
    figure.text(0.003, 0.995, letter, fontsize=9, fontweight="bold", va="top")


def letter_panels(panels: Iterable[Axes]) -> None:
    """Write A, B, ... above panels that are not parts of their own."""
    for axes, letter in zip(panels, ascii_uppercase, strict=False):
        axes.set_title(letter, loc="left", fontweight="bold")
