from __future__ import annotations

import pandas as pd
import pytest

from robust_npe.plotting import tolerance_plot
from robust_npe.plotting.overview import comparable, draw_overview
from tests.plotting.tables import EPSILONS, coverages, divergences, table
from tests.plotting.test_tolerance import lines

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_overview_draws_attacks_with_different_settings_apart(tmp_path):
    parts = []
    for base, defense, settings, domain in (
        (1.0, "none", "", "data"),
        (2.0, "none", "steps=20", "data"),
        (3.0, "fim", "", "data"),
        (4.0, "fim", "steps=20", "data"),
        (5.0, "none", "", "none"),
    ):
        attacked = divergences(base, defense=defense, attack_settings=settings, domain=domain)
        clean = coverages(1.0, 0.0, defense=defense, norm="", domain="")
        parts.append(table(attacked, clean).assign(run_id=f"run {base}"))
    results = pd.concat(parts)
    split = dict(comparable(results))
    assert set(split) == {f"maf_n100_l2_std_{domain}_kl_forward" for domain in ("data", "none")}
    part = split["maf_n100_l2_std_data_kl_forward"]
    assert set(part.attack) == {"none", "pgd", "pgd steps=20"}
    (axes,) = tolerance_plot(part[part.defense == "none"]).axes
    for label, base in (("PGD", 1.0), ("PGD steps=20", 2.0)):
        assert lines(axes, label)[0].get_ydata() == pytest.approx([base * e for e in EPSILONS])
    names = {path.name for path in draw_overview(results, tmp_path)}
    for settings in ("", "_steps=20"):
        assert f"defenses_maf_n100_l2_std_data_kl_forward{settings}.png" in names


def results(*parts):
    """A table as runs have it, the first part's run first."""
    runs = [table(part).assign(run_id=f"run {i}") for i, part in enumerate(parts)]
    return pd.concat(runs)


def test_seeds_are_averaged_whether_or_not_they_share_their_data():
    seeds = ((7, 1), (8, 2), (9, 2))
    runs = results(*(divergences(1.0, seed=s, data_seed=d) for s, d in seeds))
    ((label, part),) = comparable(runs)
    assert label == "maf_n100_l2_std_data_kl_forward"
    assert len(part) == len(runs)


def test_what_was_not_measured_is_named_and_the_rest_is_drawn(tmp_path, caplog):
    measured = [*divergences(1.0), *coverages(1.0, 0.0), *coverages(2.0, 0.5)]
    without_kl = coverages(2.0, 0.5, defense="fim", beta=0.1)
    without_coverage = divergences(1.0, defense="trades", beta=1.0)
    paths = draw_overview(results(measured, without_kl, without_coverage), tmp_path)
    label = "maf_n100_l2_std_data_kl_forward"
    drawn = {"tolerance": ["none", "trades_beta=1"], "coverage": ["none", "fim_beta=0.1"]}
    names = {f"{kind}_{label}_{d}.png" for kind, found in drawn.items() for d in found}
    assert {path.name for path in paths} == names | {f"defenses_{label}.png"}
    assert set(paths) == set(tmp_path.iterdir())
    tolerance, coverage = sorted(caplog.messages, reverse=True)
    assert "kl_forward" in tolerance
    assert tolerance.endswith(f": tolerance_{label}_fim_beta=0.1")
    assert "metric coverage" in coverage
    assert coverage.endswith(f": coverage_{label}_trades_beta=1")


def test_runs_that_attacked_nothing_are_a_warning(tmp_path, caplog):
    assert draw_overview(results(coverages(1.0, 0.0)), tmp_path) == []
    assert caplog.messages == ["nothing is drawn: the runs attacked nothing"]
