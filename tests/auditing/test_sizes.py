"""Audits of observations in any unit, of one and of many, in Python and from files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import robust_npe as rn
from robust_npe import cli
from robust_npe.auditing import AuditSettings
from robust_npe.consent import VARIABLE
from tests.auditing.common import PRIOR, QUICK, WEAK, exact, pairs, simulate

UNITS = {
    "1e-9": torch.full((6,), 1e-9),
    "1e6": torch.full((6,), 1e6),
    "mixed": torch.tensor([1e-9, 1e6, 1.0, 1e3, 1e-5, 1e9]),
}
SMALL = replace(QUICK, num_simulations=200, num_held_out=150, num_minimal=1)


def audited(unit, num=2, settings=SMALL, **given):
    """The problem of `common` with x in other units."""
    theta, x = pairs(num, seed=5)
    return rn.audit(
        lambda x: exact(x / unit),
        x * unit,
        theta,
        simulator=lambda theta: simulate(theta) * unit,
        prior=PRIOR,
        method=WEAK,
        settings=settings,
        **given,
    )


@pytest.fixture(scope="module")
def usual():
    return audited(torch.ones(6))


@pytest.mark.parametrize("name", UNITS)
def test_units_of_x_change_nothing_but_units(name, usual, tmp_path):
    unit = UNITS[name]
    found = audited(unit)
    assert found.verdict == usual.verdict
    for table, columns in {
        "attacks": ["kl_forward", "mean_shift", "nll", "distance"],
        "minimal_radius": ["radius"],
        "sensitivity": ["component", "share", "eigenvalue"],
        "typicality": ["p_value"],
        "quality": ["value"],
        "posterior": ["mean", "sd", "q05"],
    }.items():
        one, other = (report.tables[table][columns].to_numpy() for report in (found, usual))
        np.testing.assert_allclose(one, other, rtol=0.02, atol=2e-3, err_msg=table)
    moves = found.tables["threat"].largest_move / np.tile(unit.numpy(), 3)
    np.testing.assert_allclose(moves, usual.tables["threat"].largest_move, rtol=1e-3)
    found.save(tmp_path, report=name == "mixed")


def test_the_density_of_x_does_not_depend_on_its_unit():
    settings = replace(SMALL, flow=True)
    found, usual = (audited(unit, 1, settings) for unit in (UNITS["mixed"], torch.ones(6)))
    one, other = (report.tables["typicality"] for report in (found, usual))
    assert one.check.tolist() == other.check.tolist()
    np.testing.assert_allclose(one.p_value, other.p_value, atol=0.05)
    assert "flow" in set(one.check)


def test_ten_thousand_observations():
    num = 10_000
    few = replace(
        QUICK,
        num_attacked=5,
        num_held_out=500,
        num_minimal=1,
        num_samples=20,
        num_scores=8,
        num_predictive=20,
    )
    report = audited(torch.ones(6), num, few)
    assert report.tables["typicality"].query("check == 'combined'").observation.nunique() == num
    assert report.tables["posterior"].observation.nunique() == num
    assert report.tables["attacks"].observation.nunique() == 5
    assert report.findings.by_chance  # they are simulations themselves
    assert "of 10000 observations look unlike the training simulations" in report.verdict


NET = """
import torch
from tests.auditing.common import PRIOR as prior, exact, simulate as usual

UNIT = torch.tensor([1e-9, 1e6, 1.0, 1e3, 1e-5, 1e9])


def simulate(theta):
    return usual(theta) * UNIT
"""
TRAIN = ("task=function", "task.simulator=units_of_x:simulate", "task.prior=units_of_x:prior")
TRAIN += ("task.array=torch", "scale=smoke", "num_simulations=400", "training.max_epochs=8")
TRAIN += ("estimator=gaussian", "epsilon=null", "epsilon_unit=auto", "metric=[nll]", "plots=false")
FEW = ("attack=fgsm", "audit.num_samples=50", "audit.num_scores=8", "audit.num_predictive=20")
FEW += ("audit.flow=false", "audit.num_minimal=1", "audit.num_attacked=4", "report=false")


def test_the_command_takes_them_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "")
    Path("units_of_x.py").write_text(NET)
    unit = UNITS["mixed"].double().numpy()
    many = pairs(10_000, seed=5)[1].numpy() * unit
    np.save("many.npy", many)
    pd.DataFrame(many[:1], columns=[f"x_{i + 1}" for i in range(6)]).to_csv("one.csv", index=False)
    assert cli.main(["--module=units_of_x.py", "train", *TRAIN]) == 0
    (run,) = (path.name for path in Path("outputs/runs").iterdir())
    for name, count in {"one.csv": 1, "many.npy": 10_000}.items():
        assert cli.main(["audit", f"run={run}", f"x={name}", *FEW]) == 0
        written = [line.strip() for line in capsys.readouterr().out.splitlines()]
        folder = Path(next(line for line in written if line.endswith("attacks.csv"))).parent
        assert pd.read_csv(folder / "posterior.csv").observation.nunique() == count
        assert np.isfinite(pd.read_csv(folder / "attacks.csv").kl_forward).all()
        moves = pd.read_csv(folder / "threat.csv").largest_move / np.tile(unit, 3)
        assert moves.between(0.01, 1).all()  # a part of the scatter of 0.2


def test_threads_are_as_before():
    before = torch.get_num_threads()
    seen = []

    def posterior(x):
        seen.append(torch.get_num_threads())
        return exact(x)

    finest = AuditSettings(num_samples=20, num_scores=4, num_minimal=0, num_pictured=0)
    x = pairs(1)[1]
    given = {"epsilon": 0.1, "epsilon_unit": "absolute", "method": WEAK, "settings": finest}
    rn.audit(posterior, x, **given)
    assert set(seen[1:]) == {1}
    assert torch.get_num_threads() == before
