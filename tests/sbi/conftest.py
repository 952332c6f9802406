"""Posteriors of a current sbi, trained for seconds; all of this is skipped where sbi is older."""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

from robust_npe.random import draws_from, stream

DENSITIES = ["maf", "nsf", "mdn", "zuko_nsf"]
FIELDS = {"fmpe": "FMPE", "npse": "NPSE", "fmpe composed": "FMPE"}
LIKELIHOODS = {"nle": "NLE_A", "nre": "NRE_A"}


def installed():
    try:
        return tuple(int(part) for part in version("sbi").split(".")[:2])
    except PackageNotFoundError:
        return (0, 0)


class TooOld(pytest.Module):
    def collect(self):
        pytest.skip("needs sbi 0.27, which sbibm cannot live with: make test-sbi")


def pytest_pycollect_makemodule(module_path, parent):
    if installed() < (0, 27):
        return TooOld.from_parent(parent, path=module_path)
    return None


def pytest_collection_modifyitems(items):
    # sbi and what it builds on warn about their own future
    for item in items:
        if "tests/sbi" in str(item.path):
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """sbi writes a log of every training into the folder that it runs in."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def problem():
    """Prior, parameters, and observations with a feature of another scale."""
    from sbi.utils import BoxUniform

    with draws_from(stream(0, "problem")):
        prior = BoxUniform(-2 * torch.ones(2), 2 * torch.ones(2))
        theta = prior.sample((500,))
        linear = theta + 0.5 * torch.randn(500, 2)
        x = torch.cat((linear, 10 * theta[:, :1] ** 2 + torch.randn(500, 1)), 1)
    return prior, theta, x


@pytest.fixture(scope="session")
def trained(problem):
    """Train on demand: name -> posterior of sbi."""
    known = {}

    def train(name, seed=0):
        if (name, seed) not in known:
            with warnings.catch_warnings(), draws_from(stream(seed, name)):
                warnings.simplefilter("ignore")
                known[name, seed] = train_shortly(trainer(name, problem[0]), problem)
        return known[name, seed]

    return train


def trainer(name, prior):
    import sbi.inference as methods

    if name in DENSITIES:
        return methods.NPE(prior, density_estimator=name, show_progress_bars=False)
    options = {}
    if name == "fmpe composed":  # the net sees standardised theta
        from sbi.neural_nets import posterior_flow_nn

        options["vf_estimator"] = posterior_flow_nn("mlp", compose_standardization=True)
    kind = getattr(methods, {**FIELDS, **LIKELIHOODS}[name])
    return kind(prior, show_progress_bars=False, **options)


def train_shortly(inference, problem, epochs=5):
    _, theta, x = problem
    inference.append_simulations(theta, x).train(max_num_epochs=epochs, training_batch_size=50)
    return inference.build_posterior()
