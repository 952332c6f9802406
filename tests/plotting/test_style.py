from __future__ import annotations

import math
import re

import matplotlib as mpl
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from robust_npe.plotting import (
    COLORS,
    EPSILON_COLORS,
    coverage_plot,
    save_figure,
    style,
    tolerance_plot,
)
from robust_npe.plotting.names import defense_name, line_name, task_name
from robust_npe.plotting.saving import caption_of
from robust_npe.plotting.style import epsilon_color, line_colors
from tests.plotting.tables import coverages, divergences, noise, table

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize(
    "other",
    [
        {"norm": "linf"},
        {"objective": "nll"},
        {"attack_settings": "steps=20"},
        {"domain": "none"},
        {"defense": "fim"},
        {"estimator": "nsf"},
        {"num_simulations": 7},
        {"beta": 0.1},
        {"epsilon_unit": "absolute"},
    ],
)
def test_different_settings_are_never_averaged(other):
    name = next(iter(other))
    with pytest.raises(ValueError, match=name):
        tolerance_plot(table(divergences(1.0), divergences(2.0, **other)))
    if name != "objective":
        clean = coverages(1.0, 0.0), coverages(1.0, 0.0, **other)
        with pytest.raises(ValueError, match=name):
            coverage_plot(table(*clean))


def test_names_as_people_write_them():
    assert task_name("sbibm/sir") == "SIR (sbibm)"
    assert task_name("my_own") == "my_own"
    assert line_name("defense", defense_name("fim", 0.01, math.nan)) == "FIM β=0.01"
    assert line_name("defense", "noise eps=0.5") == "noise augmentation ε=0.5"
    assert line_name("attack", "noise") == "random noise"
    assert line_name("seed", "3") == "seed 3"
    assert line_name("beta", "0.0001") == "β = 0.0001"
    assert line_name("beta", "nan") == "no defense"
    assert line_name("num_simulations", "10000") == "10\u2009000 simulations"


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        (("ensemble", math.nan, math.nan, "base=none"), "ensemble"),
        (
            ("ensemble", 0.1, math.nan, "base=fim(beta=0.1,rows=64)"),
            "ensemble of FIM β=0.1 rows=64",
        ),
        (
            ("smoothing", math.nan, 2.0, "sigma=0.25 base=noise(epsilon=2.0)"),
            "smoothing \u03c3=0.25 of noise augmentation ε=2.0",
        ),
        (
            ("smoothing", 0.1, 0.5, "base=ensemble(members=2,base=trades)"),
            "smoothing of ensemble members=2 of TRADES β=0.1 ε=0.5",
        ),
    ],
)
def test_post_hoc_defenses_have_short_names(settings, shown):
    assert line_name("defense", defense_name(*settings)) == shown


def test_lines_of_one_defense_are_shades_of_its_colour():
    labels = ["fim beta=0.001", "fim beta=0.01", "fim beta=0.1", "none", "mine a=1", "mine a=2"]
    colors = line_colors(labels)
    assert len(set(colors.values())) == len(labels)
    assert colors["none"] == COLORS["none"]
    assert colors["fim beta=0.1"] == COLORS["fim"]
    brightness = [sum(to_rgb(colors[label])) for label in labels[:3]]
    assert brightness == sorted(brightness, reverse=True)
    assert brightness[0] < 2.8  # still visible on white
    assert not {colors["mine a=1"], colors["mine a=2"]} & set(COLORS.values())


def test_published_radii_have_their_colours_and_others_differ():
    assert epsilon_color(0.5, [0.0, 0.5, 1.0]) == "#e31a1c"
    odd = [0.0, 0.25, 0.5, 4.0]
    colors = [epsilon_color(e, odd) for e in odd]
    assert colors[0] == EPSILON_COLORS[0.0]
    assert len(set(colors)) == 4
    assert epsilon_color(0.7, [0.7]) == epsilon_color(0.7, [0.0, 0.7])


def test_style_leaves_global_settings_alone(tmp_path):
    before = dict(mpl.rcParams)
    save_figure(tolerance_plot(table(divergences(1.0))), tmp_path / "plot.png")
    assert dict(mpl.rcParams) == before
    with style():
        assert mpl.rcParams["font.size"] == 8
    assert [p.name for p in tmp_path.iterdir()] == ["plot.png"]


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_equal_data_are_equal_bytes(tmp_path, suffix):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        figure = tolerance_plot(table(divergences(1.0), noise(0.1)))
        save_figure(figure, tmp_path / name / f"plot.{suffix}")
    assert (tmp_path / f"a/plot.{suffix}").read_bytes() == (
        tmp_path / f"b/plot.{suffix}"
    ).read_bytes()


def test_files_say_what_they_show(tmp_path):
    figure = tolerance_plot(table(divergences(1.0)))
    for suffix in ("png", "pdf"):
        save_figure(figure, tmp_path / f"plot.{suffix}", title="How far")
    with Image.open(tmp_path / "plot.png") as found:
        assert found.width == pytest.approx(200 * 85 / 25.4, abs=1)  # one column at 200 dpi
        assert found.info["Title"] == "How far"
        assert found.info["Description"] == caption_of(figure)
    assert "medians over observations; bars: 15 to 85 %" in caption_of(figure)
    content = (tmp_path / "plot.pdf").read_bytes()
    assert b"/Title (How far)" in content
    assert b"medians over observations" in content


def test_every_font_of_a_pdf_is_embedded_as_truetype(tmp_path):
    save_figure(tolerance_plot(table(divergences(1.0))), tmp_path / "plot.pdf")
    content = (tmp_path / "plot.pdf").read_bytes()
    descriptors = re.findall(rb"/Type /FontDescriptor.*?endobj", content, re.DOTALL)
    assert descriptors  # of text, and of formulas
    assert all(b"/FontFile2" in descriptor for descriptor in descriptors)
    assert b"/Type3" not in content
