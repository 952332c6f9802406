"""Which objects become posteriors, and how."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import zuko
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

import robust_npe as rn
from robust_npe.adapters import BlackBoxPosterior, register
from robust_npe.checks import ConfigError
from robust_npe.posterior import log_prob
from robust_npe.random import draws_from, stream
from tests.posteriors import estimator, two_peaks


def flow():
    with draws_from(stream(0)):
        return zuko.flows.MAF(2, 3, transforms=2, hidden_features=(8,))


def test_functions_and_estimators_stay_what_they_are():
    assert rn.as_posterior(two_peaks) is two_peaks
    own = estimator()
    assert rn.as_posterior(own) is own


def test_modules_are_evaluated_in_the_precision_of_their_weights():
    class Dropped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))

        def forward(self, x):
            return Independent(Normal(self.net(x), 1.0), 1)

    with draws_from(stream(0)):
        module = Dropped()
    q, x = rn.as_posterior(module), torch.eye(3, dtype=torch.float64).requires_grad_(True)
    assert not module.training
    torch.testing.assert_close(q(x).mean, module.net[0](x.float()))
    assert torch.autograd.grad(q(x).mean.sum(), x)[0].dtype == torch.float64


def test_a_flow_of_zuko():
    net = flow()
    q, x, theta = rn.as_posterior(net), torch.eye(3), torch.ones(3, 2)
    torch.testing.assert_close(log_prob(q(x), theta), net(x).log_prob(theta))
    x_adv = rn.attack(q, x.double(), epsilon=1.0)
    assert (rn.kl(q, x.double(), x_adv) > 0).all()


def as_if_from(full_name, **members):
    """A class that says it comes from a library which is not installed here."""
    module, _, name = full_name.rpartition(".")
    bases = members.pop("bases", (nn.Module,))
    return type(name, bases, {"__module__": module, "__qualname__": name, **members})


def test_estimators_of_lampe():
    flows = {"flow": flow()}
    npe = as_if_from("lampe.inference.npe.NPE", forward=lambda self, theta, x: None)()
    npe.flow = flows["flow"]
    x, theta = torch.eye(3), torch.ones(3, 2)
    q = rn.as_posterior(npe)(x)
    torch.testing.assert_close(q.log_prob(theta), npe.flow(x).log_prob(theta))

    def ratio(self, theta, x):  # as lampe's: over broadcast leading axes
        return Normal(theta.sum(-1), 1.0).log_prob(x.sum(-1))

    nre = as_if_from("lampe.inference.amnre.AMNRE", bases=(base_of("nre.NRE"),), forward=ratio)()
    prior = MultivariateNormal(torch.zeros(2), torch.eye(2))
    q = rn.as_posterior(nre, prior=prior, num_draws=50)(x)
    expected = Normal(q.values.sum(-1), 1.0).log_prob(torch.ones(3, 1)).log_softmax(-1)
    torch.testing.assert_close(q.logits, expected)


def base_of(name):
    return as_if_from(f"lampe.inference.{name}")


def test_other_versions_of_a_library_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "robust_npe.adapters.sbi", None)  # its import fails
    posterior = as_if_from("sbi.inference.posteriors.base_posterior.NeuralPosterior")()
    with pytest.raises(ConfigError, match=r"another interface .* sbi 0\.27"):
        rn.as_posterior(posterior)


def test_users_register_classes_or_names():
    class Table:
        pass

    class Special(Table):
        pass

    register(Table, lambda table, scale=1.0: lambda x: Normal(scale * x[:, 0], 1.0))
    x = torch.eye(2)
    assert (rn.as_posterior(Special())(x).mean == x[:, 0]).all()
    assert (rn.as_posterior(Table(), scale=2.0)(x).mean == 2 * x[:, 0]).all()
    register(f"{__name__}.{Special.__qualname__}", lambda table: two_peaks)
    assert rn.as_posterior(Special()) is two_peaks
    with pytest.raises(ConfigError, match="adapter='no function'"):
        register(Table, "no function")


def test_objects_that_are_no_posterior():
    with pytest.raises(ConfigError, match=r"SimpleNamespace is not valid.*maps x \(B, Dx\)"):
        rn.as_posterior(SimpleNamespace())
    with pytest.raises(ConfigError, match="Normal is not valid"):
        rn.as_posterior(Normal(0.0, 1.0))
    with pytest.raises(ConfigError, match="an object, not a class"):
        rn.as_posterior(BlackBoxPosterior)
    with pytest.raises(ConfigError, match=r"options=\['num_draws'\]"):
        rn.as_posterior(two_peaks, num_draws=3)


def test_no_library_is_imported_for_others():
    code = (
        "import sys, robust_npe as rn; rn.as_posterior(len);"
        "print([m for m in ('sbi', 'lampe', 'zuko', 'bayesflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
