"""Plots, drawn from tidy tables alone."""

from __future__ import annotations

from robust_npe.plotting.broken import broken_plot
from robust_npe.plotting.cells import NothingToDrawError
from robust_npe.plotting.coverage import coverage_plot
from robust_npe.plotting.saving import save_figure
from robust_npe.plotting.style import COLORS, EPSILON_COLORS, style
from robust_npe.plotting.tolerance import tolerance_plot

__all__ = [
    "COLORS",
    "EPSILON_COLORS",
    "NothingToDrawError",
    "broken_plot",
    "coverage_plot",
    "save_figure",
    "style",
    "tolerance_plot",
]
