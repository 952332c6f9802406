from __future__ import annotations

import pandas as pd
import pytest

from robust_npe.plotting import COLORS, NothingToDrawError, broken_plot, save_figure
from tests.plotting.tables import divergences, row, table

# drawing text with the tested matplotlib uses names that pyparsing has deprecated
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

RADII = [0.1, 0.5, 2.0]


def curve(values, criterion="kl_forward", threshold=1.0, **keys):
    """As a run measures it: with the clean observations."""
    clean = {"attack": "none", "norm": "", "objective": "", "domain": "", "epsilon": 0.0}
    shared = {**clean, "metric": f"minimal_radius_{criterion}", **keys}
    rows = [
        row(statistic="broken", level=r, value=v, **shared)
        for r, v in zip(RADII, values, strict=True)
    ]
    return [*rows, row(statistic="threshold", value=threshold, **shared)]


def runs(*parts):
    """Each part is one run."""
    frames = [table(part).assign(run_id=str(i)) for i, part in enumerate(parts)]
    return pd.concat(frames, ignore_index=True)


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


def test_curves_belong_to_the_attack_of_their_run(tmp_path):
    figure = broken_plot(
        runs(
            curve([0.0, 0.5, 1.0]) + divergences(1.0),
            curve([0.0, 0.0, 0.25]) + divergences(0.1, attack="noise", objective=""),
        )
    )
    (axes,) = figure.axes
    drawn = lines(axes)
    assert set(drawn) == {"PGD", "random noise"}
    assert drawn["PGD"].get_xdata() == pytest.approx(RADII)
    assert drawn["PGD"].get_ydata() == pytest.approx([0.0, 0.5, 1.0])
    assert drawn["random noise"].get_ydata() == pytest.approx([0.0, 0.0, 0.25])
    assert drawn["PGD"].get_color() == COLORS["pgd"]
    assert axes.get_xlabel() == "perturbation radius,\nin standard deviations of x (L2)"
    assert axes.get_xscale() == "log"
    assert "above 1 (nats)" in figure.get_supxlabel().replace("\n", " ")
    save_figure(figure, tmp_path / "broken.png")


def test_seeds_are_averaged_and_defenses_compared():
    figure = broken_plot(
        runs(
            curve([0.0, 0.2, 0.4], seed=0),
            curve([0.0, 0.4, 0.8], seed=1),
            curve([0.0, 0.1, 0.1], defense="fim"),
        ),
        compare="defense",
    )
    drawn = lines(figure.axes[0])
    assert drawn["no defense"].get_ydata() == pytest.approx([0.0, 0.3, 0.6])
    assert drawn["FIM"].get_ydata() == pytest.approx([0.0, 0.1, 0.1])
    assert "Means over seeds" in figure.get_supxlabel().replace("\n", " ")


def test_one_criterion_and_one_threshold():
    both = curve([0.0, 0.5, 1.0]) + curve([0.1, 0.2, 0.3], "coverage", 0.9)
    figure = broken_plot(runs(both), criterion="coverage")
    assert next(iter(lines(figure.axes[0]).values())).get_ydata() == pytest.approx([0.1, 0.2, 0.3])
    assert "outside of the 0.9 highest" in figure.get_supxlabel().replace("\n", " ")
    with pytest.raises(ValueError, match="thresholds 1, 2"):
        broken_plot(runs(curve([0.0, 0.1, 0.2]), curve([0.0, 0.1, 0.2], threshold=2.0)))


def test_nothing_to_draw():
    with pytest.raises(NothingToDrawError, match="minimal_radius"):
        broken_plot(runs(divergences(1.0)))
    with pytest.raises(NothingToDrawError, match="minimal_radius_coverage"):
        broken_plot(runs(curve([0.0, 0.1, 0.2])), criterion="coverage")


def test_lines_do_not_mix_settings():
    with pytest.raises(ValueError, match="mix beta"):
        broken_plot(runs(curve([0, 0, 0], beta=0.1), curve([0, 0, 0], beta=0.2)))
