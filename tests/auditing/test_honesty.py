"""What an audit does not know, it does not say."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, Normal, Uniform

import robust_npe as rn
from robust_npe.attacks import ThreatModel
from robust_npe.auditing.preparing import Given, prepare
from robust_npe.auditing.quality import quality
from tests.auditing.common import PRIOR, QUICK, WEAK, exact, pairs


def quick(posterior, x, theta=None, **settings):
    settings = {"settings": QUICK, "method": WEAK, **settings}
    return rn.audit(posterior, x, theta, **settings)


def test_without_a_prior_nothing_is_said_about_what_lies_outside_of_it(tmp_path):
    theta, x = pairs(60)
    unknown = quick(exact, x[:2], simulations=(theta, x))
    known = quick(exact, x[:2], simulations=(theta, x), prior=PRIOR)
    for report, told in ((unknown, False), (known, True)):
        assert ("leakage" in set(report.tables["quality"].metric)) == told
        assert ("leakage" in report.tables["attacks"]) == told
        page = (report.save(tmp_path) / "audit.html").read_text()
        assert ("mass outside of the prior" in page) == told
        assert ("outside of the prior (%)" in page) == told


@pytest.mark.parametrize("known", ["nothing", "posterior", "bounds"])
def test_bounds_are_those_that_were_given_or_those_of_the_posterior(known):
    """Posteriors of sbi bring their prior along."""

    class Sharp:
        def __call__(self, x):
            return Independent(Normal(5.0 + 0 * x[:, :2], 0.1), 1)

    theta, x = pairs(60)
    posterior, bounds = Sharp(), {}
    if known == "posterior":
        posterior.prior = Independent(Uniform(-4 * torch.ones(2), 4 * torch.ones(2)), 1)
    if known == "bounds":
        bounds = {"low": [-4.0, -4.0], "high": [4.0, 4.0]}
    data = rn.tasks.DataTask(theta, x, **bounds)
    for given in (Given(posterior, x, task=data, simulations=data), Given(posterior, x, None, data)):
        case = prepare(given, ThreatModel(), 0.1, QUICK, 0)
        assert case.task.knows_support == (known != "nothing")
        rows = quality(case, QUICK).set_index(["metric", "statistic"]).value
        assert rows.get(("leakage", "mean")) == (None if known == "nothing" else 1.0)
