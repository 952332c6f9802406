"""Figures from recipes: sweeps that are run once, and small tidy tables that are drawn."""

from __future__ import annotations

from robust_npe.recipes.figures import FigureScript, main
from robust_npe.recipes.recipe import SCALES, Job, Recipe
from robust_npe.recipes.tables import observations, read_tables, results, write_tables

__all__ = [
    "SCALES",
    "FigureScript",
    "Job",
    "Recipe",
    "main",
    "observations",
    "read_tables",
    "results",
    "write_tables",
]
