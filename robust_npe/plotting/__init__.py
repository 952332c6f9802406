"""Plots, drawn from tidy tables alone."""

from __future__ import annotations

from robust_npe.plotting.attackable import attackable_figure
from robust_npe.plotting.bound import analytic_bound_plot, with_analytic_bound
from robust_npe.plotting.broken import broken_plot
from robust_npe.plotting.cells import MixedRunsError, NothingToDrawError
from robust_npe.plotting.columns import UntidyTableError
from robust_npe.plotting.comparisons import (
    attack_strength_plot,
    by_setting_plot,
    run_time_plot,
)
from robust_npe.plotting.composites import attacks_figure, defenses_figure
from robust_npe.plotting.coverage import coverage_plot
from robust_npe.plotting.examples import examples_figure
from robust_npe.plotting.fronts import cost_plot, front_plot
from robust_npe.plotting.names import named_defenses
from robust_npe.plotting.neuron import neuron_figure
from robust_npe.plotting.pareto import pareto_plot
from robust_npe.plotting.pyloric import pyloric_figure
from robust_npe.plotting.ridge import ridge_figure
from robust_npe.plotting.saving import save_figure
from robust_npe.plotting.style import COLORS, EPSILON_COLORS, style
from robust_npe.plotting.tolerance import tolerance_plot
from robust_npe.plotting.toy import toy_figure
from robust_npe.plotting.tradeoff import tradeoff_plot
from robust_npe.plotting.training import training_plot
from robust_npe.plotting.truth import movement_plot, true_posterior_plot

__all__ = [
    "COLORS",
    "EPSILON_COLORS",
    "MixedRunsError",
    "NothingToDrawError",
    "UntidyTableError",
    "analytic_bound_plot",
    "attack_strength_plot",
    "attackable_figure",
    "attacks_figure",
    "broken_plot",
    "by_setting_plot",
    "cost_plot",
    "coverage_plot",
    "defenses_figure",
    "examples_figure",
    "front_plot",
    "movement_plot",
    "named_defenses",
    "neuron_figure",
    "pareto_plot",
    "pyloric_figure",
    "ridge_figure",
    "run_time_plot",
    "save_figure",
    "style",
    "tolerance_plot",
    "toy_figure",
    "tradeoff_plot",
    "training_plot",
    "true_posterior_plot",
    "with_analytic_bound",
]
