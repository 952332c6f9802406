from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from robust_npe.checks import ConfigError
from robust_npe.commands import evaluation, reference, train
from robust_npe.tasks import GaussianLinear
from tests.test_config import composed

SMOKE = ("scale=smoke", "num_simulations=256", "training.max_epochs=1", "observations=2")
SMALL = ("reference.num_samples=500", "reference.batch=2000")


def run(output, *overrides):
    return reference.main(
        composed(*SMOKE, *SMALL, *overrides, f"output_dir={output}", command="reference")
    )


def test_clean_and_attacked_observations_are_computed_once(tmp_path, monkeypatch, caplog):
    overrides = ("reference.method=importance", "epsilon=[0,0.05]")
    result = run(tmp_path, *overrides)
    table = result.table
    assert list(table.observation) == [0, 1, 0, 1]
    assert list(table.epsilon) == [0, 0, 0.05, 0.05]
    assert table.converged.all()
    assert (table.ess >= 400).all()
    x, x_adv = (np.load(folder / "x.npy") for folder in result.folders)
    assert x.shape == x_adv.shape == (2, 10)
    assert not np.allclose(x, x_adv)
    samples = torch.from_numpy(np.load(result.folders[0] / "samples.npy"))
    assert samples.shape == (2, 500, 10)
    assert "importance" in result.text
    p = GaussianLinear().true_posterior(torch.from_numpy(x))
    assert ((samples.mean(1) - p.mean).abs() / p.stddev).max() < 0.3

    monkeypatch.setattr(reference, "reference_posterior", None)  # calling it would fail
    with caplog.at_level("INFO"):
        again = run(tmp_path, *overrides)
    pd.testing.assert_frame_equal(again.table, table)
    assert "found true posteriors" in caplog.text


def test_attacked_observations_are_those_of_train(tmp_path, monkeypatch):
    overrides = (*SMOKE[:3], "epsilon=0.5", "plots=false", f"output_dir={tmp_path}")
    train.main(composed(*overrides))
    (stored,) = tmp_path.glob("store/attacks/*/x_adv.npy")
    monkeypatch.setattr(evaluation, "_search", None)  # calling it would fail
    result = run(tmp_path, "epsilon=0.5")
    x_adv = np.load(result.folders[0] / "x.npy")
    np.testing.assert_array_equal(x_adv, np.load(stored)[:2])


def test_closed_form_needs_no_training(tmp_path):
    result = run(tmp_path)
    assert set(result.table.method) == {"exact"}
    assert not (tmp_path / "store" / "estimators").exists()
    x, samples = (
        torch.from_numpy(np.load(result.folders[0] / name)) for name in ("x.npy", "samples.npy")
    )
    p = GaussianLinear().true_posterior(x)
    assert ((samples.mean(1) - p.mean).abs() / p.stddev).max() < 0.25


def test_interrupted_command_continues(tmp_path, monkeypatch):
    whole, calls = reference.reference_posterior, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(reference, "reference_posterior", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    result = run(tmp_path)
    assert len(calls) == 3
    assert len(result.table) == 2
    names = {p.name for p in result.folders[0].iterdir()}
    assert names == {"manifest.json", "samples.npy", "table.csv", "x.npy"}


@pytest.mark.parametrize("name", ["unlink", "rmdir"])
def test_killed_between_its_last_steps_continues(tmp_path, monkeypatch, name):
    whole = getattr(os, name)

    def killed(path, **options):
        if str(path) == "observation_1.npz" or Path(path).match("references/*/parts"):
            raise KeyboardInterrupt
        whole(path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, name, killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    monkeypatch.setattr(reference, "reference_posterior", None)  # calling it would fail
    result = run(tmp_path)
    names = {p.name for p in result.folders[0].iterdir()}
    assert names == {"manifest.json", "samples.npy", "table.csv", "x.npy"}
    assert np.load(result.folders[0] / "samples.npy").shape == (2, 500, 10)


def test_damaged_references_are_made_again(tmp_path, caplog):
    first = run(tmp_path)
    path = first.folders[0] / "samples.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-8] + b"01234567")
    again = run(tmp_path)
    assert again.folders == first.folders
    assert path.read_bytes() == whole
    assert "set aside" in caplog.text


@pytest.mark.skipif(importlib.util.find_spec("sbibm") is None, reason="needs the extra sbibm")
def test_stored_observations_are_compared_with_their_samples(tmp_path):
    overrides = ("task=sbibm/two_moons", "source=stored", "c2st=true", "proposal=prior")
    result = run(tmp_path, *overrides, "reference.batch=4096")
    assert list(result.table.observation) == [1, 2]
    assert (result.table.c2st < 0.57).all()
    assert not (tmp_path / "store" / "estimators").exists()


def test_failure_is_said(tmp_path):
    overrides = ("reference.method=importance", "reference.max_evaluations=100")
    result = run(tmp_path, "task=sir", "proposal=prior", "observations=1", *overrides)
    assert not result.table.converged.any()
    assert "1 of 1 NOT CONVERGED" in result.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["source=x"], "source='x'"),
        (["proposal=x"], "proposal='x'"),
        (["source=stored"], "stores reference observations; gaussian_linear has none"),
        (["c2st=true"], "c2st=True .* unless source=stored"),
        (["observations=0"], "observations=0"),
        (["observations=1000"], "observations=1000"),
        (["task=spatial_sir"], "task spatial_sir has no tractable likelihood"),
        (["epsilon=-1"], "epsilon=-1"),
    ],
)
def test_wrong_settings_fail_before_any_work(overrides, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, *overrides)
    assert not list(tmp_path.iterdir())
