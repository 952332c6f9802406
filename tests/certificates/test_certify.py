"""Certificates against attacks, and against closed forms where the network is linear."""

from __future__ import annotations

from functools import partial
from itertools import product

import pytest
import torch
from torch import nn

from robust_npe.attacks import PGD, KLForward, KLReverse, make_ball
from robust_npe.certificates import Certificate, certified_kl
from robust_npe.divergences import kl
from robust_npe.estimators import MAF, MLP, CNN1d, DiagonalGaussian, FullGaussian, Identity
from robust_npe.estimators.standardize import standardization
from robust_npe.random import stream
from tests.helpers import make_estimator, observations

HEADS = (DiagonalGaussian, FullGaussian)
NORMS = ("l1", "l2", "linf")
DIM_X, ROWS = 4, 100
# depth, width, embedding, size of the weights
NETS = (
    ((), Identity, 1.5),
    ((5,), Identity, 3.0),
    ((20, 20), Identity, 2.0),
    ((7, 9, 8), partial(MLP, hidden=(6,), dim_out=5), 2.0),
)


def network(head, hidden, embedding=Identity, gain=1.0, dim_theta=3, dim_x=DIM_X):
    head = partial(head, hidden=hidden)
    return make_estimator(head, "real", dim_theta, dim_x, embedding, gain).double()


def divergences(posterior, x, x_adv):
    """Both directions of KL, `(S, B)` for `x_adv (S, B, Dx)`."""
    with torch.no_grad():
        copies = posterior(x.expand_as(x_adv).reshape(-1, x.shape[-1]))
        others = posterior(x_adv.reshape(-1, x.shape[-1]))
        both = kl(copies, others, 1, stream(0)), kl(others, copies, 1, stream(0))
    return [values.reshape(x_adv.shape[:-1]) for values in both]


def strongest(posterior, x, ball, draws=40):
    """Largest divergences found by random points, inside and on the surface, and by PGD."""
    generator = stream(1, "attack")
    inside = [ball.sample(x, generator) for _ in range(draws)]
    surface = [ball.steepest_step(torch.randn(x.shape, generator=generator)) for _ in range(draws)]
    points = [ball.feasible(x, x + delta.to(x)) for delta in inside + surface]
    for objective in (KLForward(), KLReverse()):
        points.append(PGD(objective, steps=15).search(posterior, x, None, ball, generator).x_adv)
    return [values.amax(0) for values in divergences(posterior, x, torch.stack(points))]


def cases():
    """Radii from where nothing crosses a kink to several standard deviations, one per row."""
    x = observations(ROWS, DIM_X).double()
    radius = torch.logspace(-3, 1, ROWS, dtype=torch.float64)
    scale = torch.tensor([0.5, 1.0, 2.0, 1.5], dtype=torch.float64)
    box = torch.full((DIM_X,), 3.0).double(), torch.full((DIM_X,), 6.0).double()
    for norm, args in product(NORMS, ((None, None), (scale, None), (scale, box))):
        yield x, make_ball(norm, radius, *args)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("hidden", "embedding", "gain"), NETS)
def test_no_attack_exceeds_a_certificate(head, hidden, embedding, gain):
    # 2 heads x 4 networks x 9 balls x 100 rows: 7200 cases, each with 82 attacks
    posterior = network(head, hidden, embedding, gain)
    for x, ball in cases():
        certificate = certified_kl(posterior, x, ball)
        for found, bound in zip(strongest(posterior, x, ball), certificate, strict=True):
            assert (found <= bound).all(), (ball, (found / bound).max())
            small = ball.radius < 0.01
            assert (bound / found)[small].median() < 1.6, ball  # says something, too


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("hidden", [(), (6, 6)])
def test_a_linear_mean_has_the_closed_form(head, norm, hidden):
    posterior = network(head, hidden, gain=0.5, dim_theta=2 if norm != "linf" else 1)
    with torch.no_grad():
        linear = [part for part in posterior.head.net if isinstance(part, nn.Linear)]
        for layer in linear[:-1]:
            layer.bias += 50  # all units stay active
        linear[-1].weight[posterior.dim_theta :] = 0  # constant covariance
    x = observations(5, DIM_X).double()
    ball = make_ball(norm, torch.linspace(0, 2, 5).double(), torch.tensor([1.0, 2, 3, 4]).double())
    q = posterior(x).base
    root = getattr(q, "scale_tril", None)
    root = q.base_dist.scale.diag_embed() if root is None else root
    jacobian = torch.autograd.functional.jacobian(lambda x: posterior(x).base.mean.sum(0), x)
    whitened = torch.linalg.solve_triangular(root, jacobian.transpose(0, 1), upper=False)
    scaled = whitened * ball.scale
    reach = {
        "l2": torch.linalg.matrix_norm(scaled, 2),
        "l1": torch.linalg.vector_norm(scaled, dim=-2).amax(-1),
        "linf": scaled.abs().sum(-1).amax(-1),  # one parameter
    }[norm]
    expected = (ball.radius * reach).square() / 2
    for bound in certified_kl(posterior, x, ball):
        torch.testing.assert_close(bound, expected.detach(), rtol=1e-6, atol=1e-30)


def test_each_row_has_its_own_radius_and_the_number_of_rows_does_not_matter():
    posterior, x = network(DiagonalGaussian, (10, 10)), observations(300, DIM_X).double()
    radius = torch.rand(300, generator=stream(2)).double()
    together = certified_kl(posterior, x, make_ball("l2", radius))
    for i in (0, 129, 299):
        alone = certified_kl(posterior, x[i : i + 1], make_ball("l2", float(radius[i])))
        for one, all_rows in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_rows[i])


def test_a_domain_helps():
    posterior, x = network(DiagonalGaussian, (10, 10)), observations(50, DIM_X).double()
    domain = x - 0.1, x + 0.2
    domain = domain[0].amax(0), domain[1].amin(0)  # most x are outside, in one direction or other
    for norm in NORMS:
        free = certified_kl(posterior, x, make_ball(norm, 1.0))
        cut = certified_kl(posterior, x, make_ball(norm, 1.0, domain=domain))
        assert all((a <= b * (1 + 1e-9)).all() for a, b in zip(cut, free, strict=True))
        assert all(a.median() < 0.9 * b.median() for a, b in zip(cut, free, strict=True))


def test_nothing_moves_at_radius_0():
    for head in HEADS:
        for bound in certified_kl(network(head, (9,)), observations(3, DIM_X), make_ball("l2", 0)):
            assert (bound == 0).all()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("norm", NORMS)
def test_huge_radii_have_huge_bounds(head, norm):
    x = observations(3, DIM_X)
    for bound in certified_kl(network(head, (9,), gain=3.0), x, make_ball(norm, 1e30)):
        assert (bound > 1e10).all()


@pytest.mark.parametrize(
    ("head", "embedding"), [(MAF, Identity), (DiagonalGaussian, partial(CNN1d, channels=(2,)))]
)
def test_others_have_no_certificate(head, embedding):
    posterior = make_estimator(head, dim_x=6, embedding=embedding)
    assert certified_kl(posterior, observations(3, 6), make_ball("l2", 1.0)) is None


@pytest.mark.parametrize("kind", ["auto", "robust", "log"])
@pytest.mark.parametrize("norm", NORMS)
def test_what_is_bent_before_the_network_is_covered(kind, norm):
    posterior = network(FullGaussian, (9,), gain=2.0)
    sample = observations(500, DIM_X).square().exp().log1p()  # positive
    posterior.standardize = standardization(kind, DIM_X).double()
    posterior.standardize.fit(sample)
    x = sample[:6].double() * torch.tensor([1, 3, 9, 30, 90, 300]).unsqueeze(
        1
    )  # bent more and more
    ball = make_ball(norm, 2.0)
    bounds = certified_kl(posterior, x, ball)
    for bound, found in zip(bounds, strongest(posterior, x, ball), strict=True):
        assert (found <= bound).all()
        assert found[0] > 1e-6


def test_nobody_is_certified_by_accident():
    class Mine(nn.Module):
        sigma = 10.0  # of something else

    assert certified_kl(Mine(), observations(3), make_ball("l2", 1.0)) is None

    class Norm(type(make_ball("l2", 1.0))):
        """An unknown one."""

    posterior = network(DiagonalGaussian, ())
    assert certified_kl(posterior, observations(3, DIM_X), Norm(1.0)) is None


def test_a_posterior_may_bring_its_own():
    class Certified:
        def certify(self, x, ball):
            return Certificate(x[:, 0], x[:, 0] * ball.radius)

    x = observations(3)
    assert certified_kl(Certified(), x, make_ball("l2", 2.0)).reverse.equal(2 * x[:, 0])
