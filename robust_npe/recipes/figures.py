"""What a script of `scripts/` is: recipes, the tables gathered from their runs, and a drawing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure

from robust_npe.checks import ConfigError, require
from robust_npe.files import StoreError
from robust_npe.plotting import (
    MixedRunsError,
    NothingToDrawError,
    UntidyTableError,
    save_figure,
    style,
)
from robust_npe.plotting.columns import lacking
from robust_npe.recipes.recipe import SCALES, Recipe, require_options
from robust_npe.recipes.tables import Tables, read_tables, results, write_tables

__all__ = ["FigureScript", "main", "require_left_out"]

ERRORS = (
    *(ConfigError, StoreError, OSError),
    *(MixedRunsError, NothingToDrawError, UntidyTableError),
)
FORMATS = (".pdf", ".png")


@dataclass(frozen=True)
class FigureScript:
    """How one figure is made.

    Attributes:
        name: Name of its script, files and `make` target.
        draw: Makes a figure from the tables, or several by what is added to the file's name.
        recipes: Names of the recipes whose runs it needs, in conf/experiment.
        gather: Makes small tidy tables, by name, from the recipes; reads the store only.
    """

    name: str
    draw: Callable[[Tables], Figure | Mapping[str, Figure]]
    recipes: Sequence[str] = ()
    gather: Callable[[Sequence[Recipe]], Tables] = results

    def tables(
        self,
        scale: str,
        output: Path,
        overrides: Sequence[str] = (),
        seeds: int | None = None,
    ) -> dict[str, pd.DataFrame]:
        """Gather the tables from stored runs, each with a column that says the scale.

        Raises:
            StoreError: Runs are missing; the message names the command that makes them.
        """
        require_options(scale, output, seeds)  # even where there is no recipe
        recipes = [Recipe(name, scale, output, overrides, seeds) for name in self.recipes]
        return {name: table.assign(scale=scale) for name, table in self.gather(recipes).items()}

    def save(self, tables: Tables, folder: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
        """Draw, and write the figure into a folder.

        Raises:
            StoreError: The tables are not those of this figure.
            MixedRunsError: They are of different scales.
            NothingToDrawError: They are empty.
        """
        scales = {s for t in tables.values() if "scale" in t for s in t.scale.unique()}
        if len(scales) > 1:
            mixed = ", ".join(sorted(map(str, scales)))
            raise MixedRunsError(f"The tables of {self.name} mix scale {mixed}: draw one of them.")
        try:
            drawn = self.draw(_Named(tables))
        except (KeyError, AttributeError) as error:
            name = error.args[0] if isinstance(error, _TableError) else lacking(error)
            if not name:
                raise
            raise StoreError(
                f"the tables of {self.name} lack {name!r}: they are damaged, or of another "
                f"version. Make them again: make {self.name}."
            ) from error
        figures = {"": drawn} if isinstance(drawn, Figure) else drawn
        if not figures:
            raise NothingToDrawError("no rows in its tables")
        paths = []
        for suffix, figure in figures.items():
            with style():
                layout = figure.get_layout_engine()
                if layout is not None:  # one layout serves all formats
                    layout.execute(figure)
            figure.set_layout_engine("none")
            for file_format in formats:
                end = f"_{suffix}" if suffix else ""
                paths.append(folder / f"{self.name}{end}{file_format}")
                save_figure(figure, paths[-1])
        return paths

    def make(
        self,
        scale: str,
        output: Path,
        overrides: Sequence[str] = (),
        seeds: int | None = None,
    ) -> list[Path]:
        """Gather, write the tables, and draw from what was written; arguments as for `Recipe`."""
        folder = output / "figures"
        tables = self.tables(scale, output, overrides, seeds)
        write_tables(tables, self.name, folder / "tables")
        return self.save(read_tables(self.name, folder / "tables"), folder)


class _Named(dict[str, pd.DataFrame]):
    """Tables by name, whose missing names are told from other missing keys."""

    def __missing__(self, name: str) -> pd.DataFrame:
        raise _TableError(name)


class _TableError(KeyError):
    """There is no such table."""


def require_left_out(options: Mapping[str, object]) -> None:
    """Refuse options that tables which were kept cannot follow.

    Raises:
        ConfigError: One of them was given.
    """
    for name, value in options.items():
        left_out = value is None or value is False
        require(left_out, name, value, "left out beside --tables, which has one scale")


def main(script: FigureScript) -> int:
    """Draw one figure, as its options say, and return the exit status."""
    parser = argparse.ArgumentParser(description=f"Draw {script.name} from stored runs.")
    parser.add_argument("--scale", choices=SCALES, help="of the runs; laptop if none is given")
    parser.add_argument("--seeds", type=int, help="number of seeds; that of the scale if not given")
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="output_dir of runs")
    parser.add_argument("--tables", type=Path, help="draw from the tables in this folder instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        if options.tables is None:
            scale = options.scale or "laptop"
            paths = script.make(scale, options.output, seeds=options.seeds)
        else:
            require_left_out({"--scale": options.scale, "--seeds": options.seeds})
            tables = read_tables(script.name, options.tables)
            paths = script.save(tables, options.output / "figures")
    except ERRORS as error:
        sys.stderr.write(f"{script.name}: {error}\n")
        return 2
    sys.stdout.write("\n".join([*map(str, paths), ""]))
    return 0
