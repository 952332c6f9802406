"""A metric that says before a run that it does not apply measures nothing in it."""

from __future__ import annotations

import pytest
import torch

import robust_npe as rn
from robust_npe.attacks import L2, PGD, KLForward
from robust_npe.estimators import MAF, Estimator, Identity
from robust_npe.metrics import Context
from robust_npe.random import draws_from, stream
from tests.helpers import conf_names, from_conf

APPLY = {"nll", "coverage", "divergence", "soundness", "tarp", "sbc", "minimal_radius"}
"""To any posterior of any task, so that they need not say anything."""


@pytest.mark.parametrize("kind", ["maf", "pairs"])
@pytest.mark.parametrize("name", conf_names("metric"))
def test_what_is_missing_is_not_measured(name, kind):
    theta, x = rn.simulate(rn.tasks.GaussianLinear(), 12, seed=1)
    task = rn.tasks.GaussianLinear() if kind == "maf" else rn.tasks.DataTask(theta, x)
    with draws_from(stream(0)):
        posterior = Estimator.for_task(task, MAF, Identity).eval()
    metric = from_conf("metric", name)
    missing = metric.missing(task, posterior, "none")
    assert not (missing and name in APPLY)
    if not missing:
        return
    given = PGD(KLForward(), steps=2), lambda radius: L2(torch.as_tensor(radius)), 0.5
    for attacked in (False, True):
        x_adv = x + 0.1 if attacked else x
        context = Context(task, posterior, theta, x, x_adv, attacked, 0, 64, *given)
        assert metric(context) == []
