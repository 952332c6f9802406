from __future__ import annotations

import gzip
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robust_npe.checks import ConfigError
from robust_npe.files import StoreError
from robust_npe.plotting import MixedRunsError, NothingToDrawError, UntidyTableError
from robust_npe.recipes import FigureScript, Runner, draw_from, read_tables, scripts
from tests.recipes.common import TINY

SCRIPT = """
from matplotlib.figure import Figure
from robust_npe.files import StoreError
from robust_npe.recipes import FigureScript

def draw(tables):
    {draw}

FIGURE = FigureScript(name="{name}", draw=draw, recipes={recipes}{more})
"""
DRAW = "return Figure()"
ALONE = ', gather=lambda _: {"numbers": __import__("pandas").DataFrame({"x": [0.1]})}'


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "scripts"
    folder.mkdir()
    known = {
        "good": (DRAW, ["figure4"], ""),
        "alone": (DRAW, [], ALONE),
        "bad": ("1 / 0", [], ALONE),
    }
    for name, (draw, recipes, more) in known.items():
        text = SCRIPT.format(name=name, draw=draw, recipes=recipes, more=more)
        (folder / f"{name}.py").write_text(text)
    (folder / "other.py").write_text("raise SystemExit")
    return folder


def runner(folder, tmp_path, tasks="gaussian_linear", names=()):
    overrides = [f"task={tasks}", "epsilon=[0.5]", *TINY]
    return Runner(folder, names, "smoke", tmp_path / "out", overrides, workers=1)


def written(tmp_path):
    figures = tmp_path / "out" / "figures"
    return sorted(str(p.relative_to(figures)) for p in figures.rglob("*.*"))


def test_from_an_empty_store_to_a_figure_and_again(folder, tmp_path):
    first = runner(folder, tmp_path)
    assert [line.split()[0] for line in first.listing()] == ["missing"] * 2
    first.run()
    assert first.computed == 2
    assert first.failures == ["draw bad: division by zero"]
    assert written(tmp_path) == [
        "alone.pdf",
        "alone.png",
        "good.pdf",
        "good.png",
        "tables/alone_numbers.csv.gz",
        "tables/bad_numbers.csv.gz",
        "tables/good_results.csv.gz",
    ]
    again = runner(folder, tmp_path, "gaussian_linear,toy", ["good"])
    again.run()  # x of the second task has no spread over features
    assert again.computed == 0
    *wrong, undrawn = again.failures
    assert ["task=toy" in line and "needs at least two" in line for line in wrong] == [True] * 2
    assert undrawn.startswith("draw good: ")


def test_unknown_figures_are_one_line(folder, tmp_path):
    with pytest.raises(ConfigError, match="'figure99' is not valid: it must be one of alone, bad"):
        runner(folder, tmp_path, names=["figure99"])


@pytest.mark.parametrize(
    "words",
    [
        ["figure99"],
        ["--scale", "huge"],
        ["--scale", ""],
        ["--seeds", "0"],
        ["ridge", "--tables", "nowhere", "--seeds", "0"],
        ["--tables", "nowhere"],
        ["--tables", "nowhere", "--scale", "smoke"],
    ],
)
def test_wrong_options_are_one_line(words, monkeypatch, capsys):
    path = Path(__file__).parents[2] / "scripts" / "figures.py"
    monkeypatch.setattr("sys.argv", ["figures.py", *words])
    assert runpy.run_path(str(path))["main"]() == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_folders_that_cannot_be_written_are_one_line(tmp_path, monkeypatch, capsys):
    path = Path(__file__).parents[2] / "scripts" / "figures.py"
    (tmp_path / "file").touch()
    words = ["ridge", "--scale", "smoke", "--output", str(tmp_path / "file" / "folder")]
    monkeypatch.setattr("sys.argv", ["figures.py", *words])
    assert runpy.run_path(str(path))["main"]() == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_committed_tables_are_enough_to_draw(tmp_path):
    folder = Path(__file__).parents[2] / "scripts"
    ridge: FigureScript = runpy.run_path(str(folder / "ridge.py"))["FIGURE"]
    ridge.make("laptop", tmp_path)
    (path,) = draw_from(folder, ["ridge"], tmp_path / "figures" / "tables", tmp_path / "drawn")
    assert path == tmp_path / "drawn" / "ridge.png"
    with Image.open(path) as small, Image.open(tmp_path / "figures" / "ridge.png") as large:
        assert {"Title", "Description", "dpi"} <= set(small.info)
        assert {**large.info, **small.info} == small.info
        assert path.stat().st_size < 0.6 * Path(large.filename).stat().st_size
        drawn, full = (np.asarray(image.convert("RGB"), float) for image in (small, large))
    assert abs(drawn - full).max() < 20
    assert list(draw_from(folder, [], tmp_path / "figures" / "tables", tmp_path)) == [
        tmp_path / "ridge.png"
    ]
    with pytest.raises(StoreError, match="no tables of figures"):
        list(draw_from(folder, [], tmp_path / "drawn", tmp_path))


def test_tables_that_are_not_those_of_the_figure_are_one_line(tmp_path):
    root = Path(__file__).parents[2]
    figure = scripts(root / "scripts")["figure5"][1]
    tables = read_tables("figure5", root / "docs" / "gallery" / "tables")
    with pytest.raises(StoreError, match=r"the tables of figure5 lack 'betas'.*make figure5"):
        figure.save({"results": tables["results"]}, tmp_path)
    with pytest.raises(UntidyTableError, match="lacks seed"):
        figure.save({**tables, "results": tables["results"].drop(columns="seed")}, tmp_path)


def test_tables_of_different_scales_are_not_drawn(tmp_path):
    root = Path(__file__).parents[2]
    figure = scripts(root / "scripts")["run_time"][1]
    tables = read_tables("run_time", root / "docs" / "gallery" / "tables")
    tables["figure5"] = tables["figure5"].assign(scale="paper")
    with pytest.raises(MixedRunsError, match="of run_time mix scale laptop, paper"):
        figure.save(tables, tmp_path)


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        (lambda table: table.iloc[:0], "no rows in its tables"),
        (lambda table: table[table.defense != "none"], "no example of lotka_volterra that says"),
    ],
)
def test_examples_that_are_missing_are_one_line(kept, told, tmp_path):
    root = Path(__file__).parents[2]
    figure = scripts(root / "scripts")["figure3"][1]
    tables = read_tables("figure3", root / "docs" / "gallery" / "tables")
    with pytest.raises(NothingToDrawError, match=told):
        figure.save({"examples": kept(tables["examples"])}, tmp_path)


def test_a_single_figure_takes_no_other_options_beside_tables(monkeypatch, capsys):
    script = Path(__file__).parents[2] / "scripts" / "ridge.py"
    monkeypatch.setattr("sys.argv", ["ridge.py", "--tables", "nowhere", "--scale", "paper"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(script), run_name="__main__")
    assert "--scale='paper' is not valid: it must be left out" in capsys.readouterr().err


def test_what_cannot_be_drawn_from_tables_is_named_after_the_rest_was_drawn(tmp_path):
    root = Path(__file__).parents[2]
    for path in (root / "docs" / "gallery" / "tables").glob("*.csv.gz"):
        if path.name.split("_")[0] in ("ridge", "figure2", "betas"):
            shutil.copy(path, tmp_path)
    for name in ("betas_results", "figure2_densities"):
        (tmp_path / f"{name}.csv.gz").write_bytes(gzip.compress(b"epsilon,scale\n1.0,laptop\n"))
    drawn = []
    with pytest.raises(StoreError) as told:
        drawn.extend(draw_from(root / "scripts", [], tmp_path, tmp_path))
    first, second = sorted(str(told.value).splitlines())
    assert "betas: the table lacks run_id" in first
    assert "figure2: the table lacks defense" in second
    (path,) = tmp_path.glob("*.png")
    assert path.name == "ridge.png"


@pytest.mark.parametrize("wrong", [lambda _: {}["colour"], lambda _: Path().colour])
def test_errors_of_a_drawing_are_not_told_as_damaged_tables(wrong, tmp_path):
    with pytest.raises((KeyError, AttributeError), match="colour"):
        FigureScript("wrong", wrong).save({}, tmp_path)
