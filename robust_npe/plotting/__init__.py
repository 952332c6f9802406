"""Plots, drawn from tidy tables alone."""

from __future__ import annotations

from robust_npe.plotting.attackable import attackable_figure
from robust_npe.plotting.broken import broken_plot
from robust_npe.plotting.cells import NothingToDrawError
from robust_npe.plotting.coverage import coverage_plot
from robust_npe.plotting.examples import examples_figure
from robust_npe.plotting.neuron import neuron_figure
from robust_npe.plotting.pyloric import pyloric_figure
from robust_npe.plotting.ridge import ridge_figure
from robust_npe.plotting.saving import save_figure
from robust_npe.plotting.style import COLORS, EPSILON_COLORS, style
from robust_npe.plotting.tolerance import tolerance_plot
from robust_npe.plotting.toy import toy_figure

__all__ = [
    "COLORS",
    "EPSILON_COLORS",
    "NothingToDrawError",
    "attackable_figure",
    "broken_plot",
    "coverage_plot",
    "examples_figure",
    "neuron_figure",
    "pyloric_figure",
    "ridge_figure",
    "save_figure",
    "style",
    "tolerance_plot",
    "toy_figure",
]
