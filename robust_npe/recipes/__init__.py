"""Figures from recipes: sweeps that are run once, and small tidy tables that are drawn."""

from __future__ import annotations

from robust_npe.recipes.figures import ERRORS, FigureScript, main, require_left_out
from robust_npe.recipes.recipe import SCALES, Job, Recipe
from robust_npe.recipes.runner import Runner, draw_from, scripts
from robust_npe.recipes.tables import observations, read_tables, results, write_tables

__all__ = [
    "ERRORS",
    "SCALES",
    "FigureScript",
    "Job",
    "Recipe",
    "Runner",
    "draw_from",
    "main",
    "observations",
    "read_tables",
    "require_left_out",
    "results",
    "scripts",
    "write_tables",
]
