"""Networks, densities and samples on another device: `meta` has shapes but no numbers, and refuses
to be mixed with the CPU, so that a constant made in the wrong place is found without a GPU."""

import pytest
import torch

from robust_npe.fisher import fisher_trace
from robust_npe.random import draws_from, stream
from tests.estimators.common import EMBEDDINGS, ESTIMATORS, make

META = torch.device("meta")
# nflows' splines choose rows by their values, which are not there
NAMES = [name for name in ESTIMATORS if name not in ("nflows_nsf", "sbi_nsf")]


def moved(name, support, embedding="identity"):
    estimator = make(name, support, embedding).to(META)
    x = torch.empty(5, estimator.dim_x, device=META)
    return estimator, torch.empty(5, estimator.dim_theta, device=META), x


@pytest.mark.parametrize("support", ["real", "box"])
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_samples_stay_on_the_device(name, support):
    estimator, theta, x = moved(name, support)
    with draws_from(stream(0)):
        loss = estimator.loss(theta, x)
        gradients = torch.autograd.grad(loss, list(estimator.parameters()), allow_unused=True)
        samples = estimator(x).rsample((3,))
        drawn, log_prob = estimator(x).sample_and_log_prob((2,))
    found = [loss, samples, drawn, log_prob, *(g for g in gradients if g is not None)]
    assert {tensor.device for tensor in found} == {META}


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_embeddings_stay_on_the_device(embedding):
    estimator, theta, x = moved("gaussian", "real", embedding)
    assert estimator(x).log_prob(theta).device == META


@pytest.mark.parametrize("name", ["maf", "nsf"])
def test_the_penalty_is_differentiated_where_there_are_no_kernels(name):
    estimator, _, x = moved(name, "real")
    assert estimator.score_method == "inverted"
    trace = fisher_trace(estimator, x, 2, stream(0))
    gradients = torch.autograd.grad(trace.sum(), list(estimator.parameters()), allow_unused=True)
    assert {g.device for g in gradients if g is not None} == {META}
