"""Approximators of bayesflow: densities against its own, gradients against differences, audits."""

from __future__ import annotations

from dataclasses import replace

import bayesflow as bf
import numpy as np
import pytest
import torch

import robust_npe as rn
from robust_npe.adapters.bayesflow import ApproximatorPosterior
from robust_npe.random import draws_from, stream
from tests.auditing.common import PRIOR, QUICK, WEAK, pairs, simulate

NETWORK = {"depth": 2, "subnet_kwargs": {"widths": (16, 16)}}


def workflow(x_name, x, theta, **options):
    adapter = bf.Adapter().rename("theta", "inference_variables").rename("x", x_name)
    network = bf.networks.CouplingFlow(**NETWORK)
    found = bf.BasicWorkflow(
        adapter=adapter, inference_network=network, standardize="all", **options
    )
    found.fit_offline({"theta": theta.numpy(), "x": x.numpy()}, 3, 100, verbose=0)
    return found


@pytest.fixture(scope="module")
def trained():
    theta, x = pairs(1000)
    with draws_from(stream(0)):
        return workflow("inference_conditions", x, theta), theta[:4], x[:4]


def test_log_densities_are_those_of_bayesflow(trained):
    flow, theta, x = trained
    q = rn.as_posterior(flow)(x)
    expected = flow.approximator.log_prob({"theta": theta.numpy(), "x": x.numpy()})
    np.testing.assert_allclose(q.log_prob(theta).detach(), expected, rtol=1e-5, atol=1e-5)
    several = torch.stack([theta, theta + 0.1])
    torch.testing.assert_close(q.log_prob(several)[0], q.log_prob(theta))
    assert isinstance(rn.as_posterior(flow.approximator), ApproximatorPosterior)


def test_gradients_are_finite_differences(trained):
    flow, theta, x = trained
    posterior = rn.as_posterior(flow)
    with torch.enable_grad():
        rows = x.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(posterior(rows).log_prob(theta).sum(), rows)
    move = 1e-2 * torch.randn(x.shape, generator=stream(1))
    ends = [posterior(x + sign * move).log_prob(theta).sum() for sign in (1, -1)]
    expected = (ends[0] - ends[1]) / 2
    assert expected.abs() > 1e-4
    torch.testing.assert_close((slope * move).sum(), expected, rtol=0.05, atol=1e-4)


def test_samples_are_those_of_bayesflow_and_follow_the_generator(trained):
    flow, _, x = trained
    q = rn.as_posterior(flow)(x)
    with draws_from(stream(0)):
        drawn = q.sample((2000,))
    with draws_from(stream(0)):
        assert torch.equal(q.sample((2000,)), drawn)
        own = flow.approximator.sample(num_samples=2000, conditions={"x": x.numpy()})["theta"]
    error = own.std(1) / 2000**0.5
    assert (np.abs(drawn.mean(0).numpy() - own.mean(1)) < 6 * error).all()


def test_sets_go_through_a_summary_network():
    theta, x = pairs(300)
    sets = x.reshape(300, 3, 2)
    with draws_from(stream(0)):
        flow = workflow("summary_variables", sets, theta, summary_network=bf.networks.DeepSet(4))
    q = rn.as_posterior(flow, x_shape=(3, 2))(x[:4])
    expected = flow.approximator.log_prob({"theta": theta[:4].numpy(), "x": sets[:4].numpy()})
    np.testing.assert_allclose(q.log_prob(theta[:4]).detach(), expected, rtol=1e-4, atol=1e-4)


def test_an_audit_works_though_autograd_is_off(trained):
    flow, theta, x = trained
    assert not torch.is_grad_enabled()
    settings = replace(QUICK, flow=True, num_simulations=100, num_held_out=60, num_minimal=0)
    given = {"simulator": simulate, "prior": PRIOR, "method": WEAK, "settings": settings}
    report = rn.audit(flow, x[:2], theta[:2], **given)
    moved = report.tables["attacks"].query("epsilon == 1").groupby("attack").kl_forward.mean()
    assert moved["pgd"] > 1.2 * moved["noise"]
    assert "flow" in set(report.tables["typicality"].check)
    assert report.tables["sensitivity"].share.notna().all()
