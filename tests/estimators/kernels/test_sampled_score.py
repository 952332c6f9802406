"""The compiled scores against automatic differentiation of the density and of the inverse."""

from functools import partial

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from robust_npe.estimators import (
    FMPE,
    MAF,
    MLP,
    NSF,
    Estimator,
    Identity,
    MixtureDensityNetwork,
    NflowsMAF,
)
from robust_npe.estimators.kernels import score_kernels
from robust_npe.estimators.kernels.sampled_score import sampled_score
from robust_npe.estimators.kernels.score_kernels import TILE
from robust_npe.estimators.kernels.weighted_noise import weighted_noise
from robust_npe.fisher import fisher_trace, scores
from robust_npe.random import draws_from, stream
from tests.helpers import connect_directly

REALS = torch.distributions.constraints.real_vector
SETTINGS = [  # dim_theta, dim_x, transforms, passes, hidden
    (1, 3, 2, None, (8,)),
    (2, 5, 3, None, (16, 13)),
    (5, 2, 1, 2, (11, 7, 9)),
    (7, 3, 4, 3, (16, 13)),
    (10, 4, 3, None, (31, 23)),
]
# of the samples, a seventh are outside of these splines
HEADS = [MAF, partial(NSF, bins=5, bound=1.5)]
each_head = pytest.mark.parametrize("head", HEADS, ids=["maf", "nsf"])


def make(dim, dim_x, transforms, passes, hidden, embedding=Identity, head=MAF, **kwargs):
    settings = {"transforms": transforms, "hidden": hidden, "passes": passes, **kwargs}
    with draws_from(stream(0, "weights")):
        estimator = Estimator(partial(head, **settings), embedding, dim, dim_x, REALS).double()
    with torch.no_grad():
        for parameter in connect_directly(estimator).parameters():  # farther from the identity
            parameter *= 1.5
    return estimator


def by_differentiation(estimator, x, z):
    """Scores with respect to x at the images of z, with graph."""
    q = estimator(x).base
    q._noise = lambda sample_shape: z
    theta = q.rsample()
    copies = x.clone().requires_grad_(True)
    log_prob = estimator(copies).base.log_prob(theta).sum()
    return torch.autograd.grad(log_prob, copies, create_graph=True)[0]


def compiled(estimator, x, z):
    copies = x.clone().requires_grad_(True)
    head, context = estimator.head, estimator.context(copies)
    nets = head.context, head.direct, list(head.conditioners), head.univariate
    score = sampled_score(*nets, context, z.T.contiguous())
    return torch.autograd.grad(context, copies, score, create_graph=True)[0]


@pytest.mark.parametrize("count", [5, TILE + 9])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("embedding", [Identity, MLP])
@each_head
def test_scores_and_their_gradient_are_those_of_automatic_differentiation(
    settings, count, embedding, head
):
    estimator = make(*settings, embedding=embedding, head=head)
    x = torch.randn(count, settings[1], generator=stream(1)).double()
    z = torch.randn(count, settings[0], generator=stream(2)).double()
    weights = torch.randn(count, settings[1], generator=stream(3)).double()
    parameters = list(estimator.parameters())
    results = []
    for function in (compiled, by_differentiation):
        score = function(estimator, x, z)
        value = (weights * score.square()).sum()
        gradient = torch.autograd.grad(value, parameters, materialize_grads=True)
        results.append((score.detach(), gradient))
    (score, gradient), (expected_score, expected) = results
    torch.testing.assert_close(score, expected_score)
    largest = max(float(g.abs().max()) for g in expected if g.numel())
    for own, other in zip(gradient, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-7, atol=1e-9 * largest)


@each_head
def test_float32(head):
    settings = SETTINGS[-1]
    double, x = (
        make(*settings, head=head),
        torch.randn(20, settings[1], generator=stream(1)).double(),
    )
    z = torch.randn(20, settings[0], generator=stream(2)).double()
    expected = compiled(double, x, z).detach()
    score = compiled(double.float(), x.float(), z.float()).detach()
    assert score.dtype == torch.float32
    torch.testing.assert_close(score.double(), expected, rtol=1e-3, atol=1e-3)


def test_a_second_derivative_is_refused():
    estimator = make(*SETTINGS[1])
    x, z = torch.zeros(4, 5).double(), torch.ones(4, 2).double()
    parameters = list(estimator.parameters())
    value = compiled(estimator, x, z).square().sum()
    gradient = torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        sum(g.square().sum() for g in gradient).backward()


@each_head
def test_non_finite_weights_are_not_hidden(head):
    estimator = make(*SETTINGS[1], head=head)
    with torch.no_grad():
        estimator.head.conditioners[0].layers[0].bias[0] = torch.nan
    trace = fisher_trace(estimator, torch.zeros(3, 5).double(), 1, stream(0))
    assert trace.isnan().all()


def test_products_take_as_many_threads_as_those_of_torch(monkeypatch):
    seen = []

    def forward(*arguments):
        seen.extend(p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas")
        return kernel(*arguments)

    kernel = score_kernels.forward
    monkeypatch.setattr(score_kernels, "forward", forward)
    with threadpool_limits(2, user_api="blas"):
        scores(make(*SETTINGS[1]), torch.zeros(3, 5).double(), 2, stream(0), attached=False)
    assert set(seen) == {torch.get_num_threads()} == {1}


@each_head
def test_an_empty_batch_has_no_scores(head):
    estimator = make(*SETTINGS[1], head=head)
    assert scores(estimator, torch.zeros(0, 5).double(), 2, stream(0), True).shape == (2, 0, 5)


def test_weights_that_change_before_the_gradient_is_taken_do_not_change_it():
    estimator, gradients = make(*SETTINGS[1]), []
    for factor in (1, 2):
        value = fisher_trace(estimator, torch.zeros(3, 5).double(), 1, stream(0)).sum()
        with torch.no_grad():
            for parameter in estimator.head.parameters():
                parameter.mul_(factor)
        gradients.append(torch.autograd.grad(value, estimator.head.parameters()))
    for own, expected in zip(*gradients, strict=True):
        assert torch.equal(own, expected)


def test_how_scores_are_computed():
    for head in (MAF, NSF):
        assert make(*SETTINGS[1], head=head).score_method == "compiled"
        assert make(*SETTINGS[1], head=head, embedding=MLP).score_method == "embedded"
    with draws_from(stream(0, "weights")):
        mixture = Estimator(MixtureDensityNetwork, Identity, 2, 5, REALS)
        flow_matching = Estimator(FMPE, Identity, 2, 5, REALS)
        library = Estimator(NflowsMAF, Identity, 2, 5, REALS)
    assert mixture.score_method == "differentiated"
    assert flow_matching.score_method == "integrated"
    assert library.score_method == "inverted"
    assert scores(mixture, torch.zeros(3, 5), 2, stream(0), attached=True).shape == (2, 3, 5)


@each_head
@pytest.mark.parametrize("embedding", [Identity, MLP])
def test_scores_far_outside_of_the_training_data(head, embedding):
    """As exact as differentiation, whose own error is what rounding x does to it: values of 1e11
    cancel here."""
    estimator = make(2, 5, 3, None, (16, 13), embedding=embedding, head=head)
    x = 9 * torch.randn(40, 5, generator=stream(1)).double()
    z, _ = weighted_noise(40, 2, stream(2), torch.float64)

    def own(x):
        context = estimator.context(x.requires_grad_(True))
        gradient, _ = estimator.head.sampled_score(context, stream(2))
        return torch.autograd.grad(context, x, gradient, create_graph=True)[0]

    def numbers(score):
        total = score.square().sum()
        weights = torch.autograd.grad(total, list(estimator.parameters()), materialize_grads=True)
        return torch.cat([value.detach().flatten() for value in (score, *weights)])

    assert (estimator.context(x).abs() > 5).any()
    expected = numbers(by_differentiation(estimator, x, z.T))
    error = torch.zeros_like(expected)
    for k in range(20):
        rounded = x * (1 + 2.2e-16 * torch.empty_like(x).uniform_(-1, 1, generator=stream(9, k)))
        found = numbers(by_differentiation(estimator, rounded, z.T))
        error = torch.maximum(error, (found - expected).abs())
    difference = (numbers(own(x.clone())) - expected).abs()
    assert (difference <= 10 * error + 1e-13 * expected.abs()).all()
