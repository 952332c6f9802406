import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.distributions.constraints import real_vector

from robust_npe.estimators import MAF, MLP, NSF, DiagonalGaussian, Estimator, Head, Identity
from robust_npe.fisher import (
    fisher_eigenvalue,
    fisher_information,
    fisher_trace,
    largest_eigenvector,
    leading_eigenvectors,
    power_iteration,
    scores,
)
from robust_npe.random import draws_from, stream

DIM_THETA, DIM_X = 2, 3


class LinearGaussian(Head):
    """N(W context, diag(std^2)): I_x is known and does not depend on x."""

    name = "linear_gaussian"

    def __init__(self, dim_theta, dim_context):
        super().__init__()
        self.mean = nn.Linear(dim_context, dim_theta)
        self.log_std = nn.Parameter(torch.linspace(-1, 0.5, dim_theta))

    def forward(self, context):
        return Independent(Normal(self.mean(context), self.log_std.exp().expand(DIM_THETA)), 1)


def nonlinear(dim_theta, dim_context):
    return DiagonalGaussian(dim_theta, dim_context, hidden=(7, 6))


def maf(dim_theta, dim_context):
    return MAF(dim_theta, dim_context, transforms=2, hidden=(7, 6))


def nsf(dim_theta, dim_context):
    return NSF(dim_theta, dim_context, transforms=2, bins=4, hidden=(7, 6))


def embedding(dim_x):
    return MLP(dim_x, hidden=(9,), dim_out=4)


def make_estimator(head, embedding=Identity):
    with draws_from(stream(1, "weights")):
        estimator = Estimator(head, embedding, DIM_THETA, DIM_X, real_vector).double()
    generator = stream(1, "data")
    scale = torch.tensor([0.5, 1.0, 3.0])
    x = 1 + scale * torch.randn(100, DIM_X, generator=generator)
    theta = torch.randn(100, DIM_THETA, generator=generator)
    estimator.fit_standardization(theta, x)
    return estimator, x[:5].double()


def closed_form(estimator, x):
    """I_x = J_mean^T S^-1 J_mean + 2 J_log_std^T J_log_std for a diagonal Gaussian, with graph."""
    x = x.detach().requires_grad_(True)
    q = estimator(x).base.base_dist  # the bijection is the same for all x and does not matter
    mean, std = torch.broadcast_tensors(q.mean, q.stddev)
    information = torch.zeros(len(x), DIM_X, DIM_X, dtype=x.dtype)
    for d in range(DIM_THETA):
        for output, factor in ((mean, 1 / std[:, d].square()), (std.log(), torch.tensor(2.0))):
            (row,) = torch.autograd.grad(
                output[:, d].sum(), x, create_graph=True, allow_unused=True, materialize_grads=True
            )
            outer = row.unsqueeze(-1) * row.unsqueeze(-2)
            information = information + factor.reshape(-1, 1, 1) * outer
    return information


def gradient(value, estimator):
    gradients = torch.autograd.grad(value, list(estimator.parameters()), materialize_grads=True)
    return torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize("head", [LinearGaussian, nonlinear])
class TestGaussian:
    def test_information_and_trace(self, head):
        estimator, x = make_estimator(head)
        expected = closed_form(estimator, x).detach()
        information = fisher_information(estimator, x, 50_000, stream(0))
        largest = expected.abs().amax()
        torch.testing.assert_close(information, expected, rtol=0, atol=0.03 * float(largest))
        trace = fisher_trace(estimator, x, 50_000, stream(0), attached=False)
        expected_trace = expected.diagonal(dim1=1, dim2=2).sum(-1)
        torch.testing.assert_close(trace, expected_trace, rtol=0.03, atol=0)

    def test_eigenvalue(self, head):
        estimator, x = make_estimator(head)
        expected = torch.linalg.eigvalsh(closed_form(estimator, x).detach())[:, -1]
        # the Gram matrix of all samples would be large, so average the matrix instead
        information = fisher_information(estimator, x, 50_000, stream(0))
        eigenvalue = torch.linalg.eigvalsh(information)[:, -1]
        torch.testing.assert_close(eigenvalue, expected, rtol=0.03, atol=0)
        few = fisher_eigenvalue(estimator, x, 500, stream(0), attached=False)
        torch.testing.assert_close(few, expected, rtol=0.3, atol=0)

    def test_gradient_of_trace_is_that_of_the_closed_form(self, head):
        estimator, x = make_estimator(head)
        closed = closed_form(estimator, x).diagonal(dim1=1, dim2=2).sum(-1).mean()
        expected = gradient(closed, estimator)
        estimate = gradient(fisher_trace(estimator, x, 20_000, stream(0)).mean(), estimator)
        assert (estimate - expected).norm() < 0.03 * expected.norm()

    def test_detached_samples_would_give_a_biased_gradient(self, head):
        estimator, x = make_estimator(head)
        closed = closed_form(estimator, x).diagonal(dim1=1, dim2=2).sum(-1).mean()
        expected = gradient(closed, estimator)
        with draws_from(stream(0)):
            theta = estimator(x).sample((20_000,))
        copies = x.expand(20_000, *x.shape).clone().requires_grad_(True)
        log_prob = estimator(copies).log_prob(theta).sum()
        (score,) = torch.autograd.grad(log_prob, copies, create_graph=True)
        detached = gradient(score.square().sum(-1).mean(), estimator)
        assert (detached - expected).norm() > 0.2 * expected.norm()

    def test_kl_to_second_order(self, head):
        estimator, x = make_estimator(head)
        delta = 1e-4 * torch.randn(x.shape, generator=stream(0), dtype=x.dtype)
        with torch.no_grad():
            divergence = kl_divergence(estimator(x).base, estimator(x + delta).base)
        information = closed_form(estimator, x).detach()
        expected = torch.einsum("bi,bij,bj->b", delta, information, delta) / 2
        torch.testing.assert_close(divergence, expected, rtol=1e-2, atol=0)


@pytest.mark.parametrize("quantity", [fisher_trace, fisher_eigenvalue])
@pytest.mark.parametrize(
    ("head", "net"), [(nonlinear, Identity), (maf, Identity), (maf, embedding), (nsf, Identity)]
)
def test_gradient_with_common_noise_is_that_of_finite_differences(head, net, quantity):
    estimator, x = make_estimator(head, net)
    parameters = list(estimator.parameters())
    names = [name for name, _ in estimator.named_parameters()]
    analytic = gradient(quantity(estimator, x, 4, stream(0)).mean(), estimator)
    direction = torch.randn(analytic.shape, generator=stream(1), dtype=x.dtype)

    def moved(step):
        parts = (step * direction).split([p.numel() for p in parameters])
        for name, p, part in zip(names, parameters, parts, strict=True):
            assert p.shape == dict(estimator.named_parameters())[name].shape
            p.data.add_(part.view_as(p))
        value = quantity(estimator, x, 4, stream(0), attached=False).mean()
        for p, part in zip(parameters, parts, strict=True):
            p.data.sub_(part.view_as(p))
        return value

    numeric = (moved(1e-6) - moved(-1e-6)) / 2e-6
    torch.testing.assert_close(analytic @ direction, numeric, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("head", "net"), [(maf, Identity), (maf, embedding), (nsf, Identity)])
def test_kl_of_a_flow_to_second_order(head, net):
    estimator, x = make_estimator(head)
    axis = torch.linspace(-10, 10, 160, dtype=x.dtype)
    theta = torch.cartesian_prod(axis, axis).unsqueeze(1)
    delta = 1e-3 * torch.randn(x.shape, generator=stream(1), dtype=x.dtype)
    copies = x.expand(len(theta), *x.shape).clone().requires_grad_(True)
    log_q = estimator(copies).log_prob(theta)
    (score,) = torch.autograd.grad(log_q.sum(), copies)
    with torch.no_grad():
        cell = log_q.exp() * (axis[1] - axis[0]) ** 2
        torch.testing.assert_close(cell.sum(0), torch.ones(5, dtype=x.dtype), rtol=0, atol=0.01)
        log_ratio = estimator(x + delta).log_prob(theta) - log_q
        # r - 1 integrates to zero; with it, errors of the grid are of second order
        divergence = (cell * (log_ratio.expm1() - log_ratio)).sum(0)
    expected = (cell * (score * delta).sum(-1).square()).sum(0) / 2
    torch.testing.assert_close(divergence, expected, rtol=0.05, atol=0)
    information = fisher_information(estimator, x, 20_000, stream(0))
    sampled = torch.einsum("bi,bij,bj->b", delta, information, delta) / 2
    torch.testing.assert_close(sampled, expected, rtol=0.1, atol=0)


def test_every_sample_of_an_observation_counts():
    estimator, x = make_estimator(maf)

    def spread(num_samples):
        traces = [fisher_trace(estimator, x, num_samples, stream(k), False) for k in range(400)]
        return torch.stack(traces).std(0).mean()

    one = spread(1)
    for num_samples in (2, 3, 4):  # antithetic noise of one observation would not count twice
        assert spread(num_samples) < 1.15 * one / num_samples**0.5


def test_one_sample_makes_the_eigenvalue_the_trace():
    estimator, x = make_estimator(maf)
    eigenvalue = fisher_eigenvalue(estimator, x, 1, stream(0))
    torch.testing.assert_close(eigenvalue, fisher_trace(estimator, x, 1, stream(0)))


def test_eigenvector_by_gram_matrix_and_by_power_iteration():
    estimator, x = make_estimator(nonlinear)
    score = scores(estimator, x, 6, stream(0), attached=False)
    matrix = torch.einsum("sbi,sbj->bij", score, score) / 6
    expected = torch.linalg.eigvalsh(matrix)[..., -1]
    start = torch.randn(x.shape, generator=stream(1), dtype=x.dtype)
    for vector in (largest_eigenvector(score), power_iteration(score, start, 300)):
        quotient = torch.einsum("bi,bij,bj->b", vector, matrix, vector)
        torch.testing.assert_close(quotient, expected)


def test_power_iteration_survives_zero_scores():
    score = torch.zeros(3, 2, 4)
    assert power_iteration(score, torch.ones(2, 4), 5).isfinite().all()
    assert largest_eigenvector(score).isfinite().all()


@pytest.mark.parametrize(("num_scores", "dim"), [(4, 9), (9, 4), (3, 1)])
def test_leading_eigenvectors_are_those_of_the_matrix(num_scores, dim):
    score = torch.randn(num_scores, 5, dim, generator=stream(0), dtype=torch.float64)
    vectors = leading_eigenvectors(score, 2)
    matrix = torch.einsum("sbi,sbj->bij", score, score) / num_scores
    values, expected = torch.linalg.eigh(matrix)
    assert vectors.shape == (min(2, num_scores, dim), 5, dim)
    for k, vector in enumerate(vectors):
        along = (vector * expected[..., -1 - k]).sum(-1).abs()
        torch.testing.assert_close(along, torch.ones_like(along))
        product = torch.einsum("bij,bj->bi", matrix, vector)
        torch.testing.assert_close(product, values[:, -1 - k, None] * vector)


def test_eigenvectors_of_nearly_singular_matrices_are_found():
    """Single precision does not converge for one in a hundred of these, whose rank is one."""
    scores = []
    for seed in range(300):
        normal = torch.randn(2, 64, generator=stream(seed, "scores"))
        score = normal[0] * (8 * normal[1]).exp()
        scores.append(score / score.abs().max())
    found = largest_eigenvector(torch.stack(scores, 1)[..., None])
    torch.testing.assert_close(found.abs(), torch.ones(300, 1))


def test_what_is_not_finite_has_no_eigenvector():
    score = torch.randn(5, 3, 4, generator=stream(0))
    expected = largest_eigenvector(score)
    score[2, 1, 0] = torch.inf
    found = largest_eigenvector(score)
    assert found[1].isnan().all()
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]])
    assert leading_eigenvectors(score, 2)[:, 1].isnan().all()
