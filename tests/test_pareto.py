from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from robust_npe.pareto import BEST, UNDEFENDED, best_within, fronts, non_dominated
from robust_npe.plotting import NothingToDrawError
from tests.plotting.tables import clean, divergences, table

FIM = {"defense": "fim"}


def run(nll, kl, **keys):
    """Rows of a run with this KL at radius 0.5."""
    return [*divergences(2 * kl, **keys), *clean(nll, 10.0, **keys)]


# front by hand: none, beta 0.01 and 0.1; beta 0.03 costs more than 0.1 and has a larger KL
NONE = run(1.0, 10.0)
WEAK = run(1.05, 4.0, beta=0.01, **FIM)
MIDDLE = run(1.6, 3.0, beta=0.03, **FIM)
STRONG = run(1.5, 2.0, beta=0.1, **FIM)


def test_points_of_a_known_front():
    points = np.array([[0, 5], [1, 1], [1, 2], [2, 1], [3, 0], [0, 5], [np.nan, 0], [-1, np.inf]])
    assert non_dominated(points).tolist() == [True, True, False, False, True, True, False, False]


def test_points_against_the_definition():
    rng = np.random.default_rng(0)
    points = rng.integers(0, 12, (80, 2)).astype(float)
    wanted = [not any((q <= p).all() and (q < p).any() for q in points) for p in points]
    assert non_dominated(points).tolist() == wanted
    assert 1 < sum(wanted) < 40


def test_front_and_losses_of_settings():
    found = fronts(table(NONE, WEAK, MIDDLE, STRONG), 0.5).set_index("beta")
    assert found.non_dominated[[0.01, 0.03, 0.1]].tolist() == [True, False, True]
    assert found[found.defense == "none"].non_dominated.all()
    assert found.loss[[0.01, 0.03, 0.1]].tolist() == pytest.approx([0.05, 0.6, 0.5])
    assert found.kl[[0.01, 0.03, 0.1]].tolist() == pytest.approx([4.0, 3.0, 2.0])
    assert set(found.relative_to) == {UNDEFENDED}


@pytest.mark.parametrize(
    ("most", "beta"), [(0.0, 0.01), (0.04, 0.01), (0.1, 0.01), (0.55, 0.1), (9.0, 0.1)]
)
def test_beta_for_a_loss(most, beta):
    (chosen,) = best_within(fronts(table(NONE, WEAK, MIDDLE, STRONG), 0.5), most).beta
    assert chosen == beta


def test_without_undefended_runs_losses_are_relative_to_the_best():
    found = fronts(table(WEAK, MIDDLE, STRONG), 0.5).set_index("beta")
    assert found.loss[[0.01, 0.03, 0.1]].tolist() == pytest.approx([0.0, 0.55, 0.45])
    assert set(found.relative_to) == {BEST}


def test_seeds_are_compared_with_the_undefended_run_of_the_same_seed():
    other = run(3.0, 20.0, seed=1)
    defended = run(3.1, 8.0, beta=0.01, seed=1, **FIM)
    found = fronts(table(NONE, other, WEAK, defended), 0.5).set_index("defense")
    assert found.loss.to_dict() == pytest.approx({"none": 0.0, "fim": (0.05 + 0.1) / 2})
    assert found.kl.to_dict() == pytest.approx({"none": 15.0, "fim": 6.0})
    assert set(found.seeds) == {2}
    # one seed of two: no loss of 1 - 2 nats because the other seed is harder
    found = fronts(table(NONE, other, WEAK), 0.5).set_index("defense")
    assert found.loss["fim"] == pytest.approx(0.05)


def test_attacks_and_estimators_are_not_mixed():
    noise = [*divergences(0.1, attack="noise", objective=""), *clean(1.0, 10.0)]
    nsf = run(0.5, 50.0, estimator="nsf")
    rows = [table(NONE, WEAK), table(noise).assign(run_id="noise"), table(nsf)]
    found = fronts(pd.concat(rows), 0.5)
    assert found.groupby("group").size().sort_values().tolist() == [1, 1, 2]
    (name,) = found[found.estimator == "nsf"].group
    assert name.startswith("gl, estimator=nsf, attack=pgd")
    assert found[found.attack == "noise"].non_dominated.all()


def test_runs_that_no_column_tells_apart_are_left_out(caplog):
    rows = pd.concat([table(NONE, WEAK), table(run(1.0, 7.0)).assign(run_id="other")])
    nsf = table(run(1.0, 7.0, estimator="nsf"))
    assert set(fronts(pd.concat([rows, nsf]), 0.5).estimator) == {"nsf"}
    assert "left out gl, maf: Runs" in caplog.text
    with pytest.raises(NothingToDrawError, match="see the warnings"):
        fronts(rows, 0.5)


def test_a_radius_that_no_run_has():
    with pytest.raises(NothingToDrawError, match=r"radius 0\.7: it is there at 0\.1, 0\.5, 2"):
        fronts(table(NONE), 0.7)
