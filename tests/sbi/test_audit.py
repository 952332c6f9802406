"""Posteriors of sbi on the command line: audited as those of this package are."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sbi.inference import NPE

import robust_npe as rn
from robust_npe import cli
from robust_npe.consent import VARIABLE
from robust_npe.random import draws_from, stream
from tests.auditing.common import PRIOR, simulate

SIMULATOR = "from tests.auditing.common import PRIOR as prior, simulate\n"
TASK = ("task=function", "task.simulator=linear_sim:simulate", "task.prior=linear_sim:prior")
TRAINING = ("num_simulations=2000", "training.max_epochs=25", "epsilon=1", "metric=[nll]")
AUDIT = ("x=x.npy", "theta=theta.npy", "epsilon=null", "epsilon_unit=auto", "attack=pgd")
AUDIT += ("audit.num_samples=200", "audit.num_scores=64", "audit.num_minimal=2", "report=false")
AUDIT += ("audit.num_simulations=400", "audit.num_held_out=300", "audit.flow=false")


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    path = tmp_path / "linear_sim.py"
    path.write_text(SIMULATOR)
    with draws_from(stream(3)):
        theta = PRIOR.sample((6,))
        np.save("theta.npy", theta)
        np.save("x.npy", simulate(theta))
    return f"--module={path}"


def tables(capsys):
    text = capsys.readouterr().out
    written = [Path(line.strip()) for line in text.splitlines() if line.endswith(".csv")]
    assert written, text
    return {path.stem: pd.read_csv(path) for path in written}


def test_the_same_command_gives_comparable_tables(module, capsys):
    assert cli.main([module, "train", *TASK, *TRAINING, "plots=false"]) == 0
    (run,) = (path.name for path in Path("outputs/runs").iterdir())
    with draws_from(stream(0)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theta = PRIOR.sample((2000,))
        inference = NPE(PRIOR, density_estimator="maf", show_progress_bars=False)
        net = inference.append_simulations(theta, simulate(theta)).train(max_num_epochs=25)
    rn.save_posterior(net, "sbi.safetensors", "sbi:maf", dims=(2, 6))
    capsys.readouterr()
    assert cli.main([module, "audit", f"run={run}", *AUDIT]) == 0
    own = tables(capsys)
    assert cli.main([module, "audit", "posterior=sbi.safetensors", *TASK, *AUDIT]) == 0
    others = tables(capsys)
    assert own.keys() == others.keys()
    keys = {"attacks": ["observation", "attack", "epsilon"], "typicality": ["observation", "check"]}
    keys |= {"minimal_radius": ["observation", "criterion"], "threat": ["epsilon", "feature"]}
    for name, table in own.items():
        assert list(table.columns) == list(others[name].columns), name
        columns = keys.get(name, [])
        pd.testing.assert_frame_equal(table[columns], others[name][columns])
    moves = [t["threat"].largest_move for t in (own, others)]
    np.testing.assert_allclose(moves[0], moves[1], rtol=0.25)
    # both were trained shortly: so that they agree roughly
    medians = [
        t["attacks"].groupby(["attack", "epsilon"]).kl_forward.median() for t in (own, others)
    ]
    ratio = (medians[0] / medians[1]).dropna()
    assert len(ratio) == 6
    assert ratio.between(1 / 3, 3).all()
    nll = [
        t["quality"].query("metric == 'nll' and statistic == 'mean'").value.item()
        for t in (own, others)
    ]
    assert abs(nll[0] - nll[1]) < 0.6


def test_a_likelihood_is_audited_as_parameters(module, trained, problem, capsys):
    x = problem[2]
    torch.save(trained("nle"), "nle.pt")
    np.save("own.npy", x[:2])
    given = ("x=own.npy", "epsilon=0.3", "epsilon_unit=absolute", "attack=pgd", "attack.steps=5")
    quick = ("audit.num_samples=100", "audit.num_scores=16", "audit.num_minimal=1", "report=false")
    assert cli.main(["audit", "posterior=nle.pt", *given, *quick]) == 2
    assert "trust=true if you made the file" in capsys.readouterr().err
    assert cli.main(["audit", "posterior=nle.pt", "trust=true", *given, *quick]) == 0
    found = tables(capsys)
    assert found["attacks"].effective_draws.between(1, 2000).all()
    assert np.isfinite(found["attacks"].kl_forward).all()
    means = found["posterior"].groupby("parameter")["mean"]
    assert means.min().between(-2, 2).all()  # parameters of the prior, no numbers of draws
    assert means.max().between(-2, 2).all()
