from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from robust_npe.attacks import L1, L2, Linf, make_ball
from robust_npe.random import stream

NORMS = ("l1", "l2", "linf")
DUAL = {"l1": math.inf, "l2": 2, "linf": 1}
ORDER = {"l1": 1, "l2": 2, "linf": math.inf}


def norm_of(norm, delta):
    return torch.linalg.vector_norm(delta, ord=ORDER[norm], dim=-1)


def support_function(norm, direction):
    """Largest inner product of a direction with a point of the unit ball: the dual norm."""
    return torch.linalg.vector_norm(direction, ord=DUAL[norm], dim=-1)


@st.composite
def cases(draw):
    """A ball and a batch of arbitrary vectors, some zero, some far away, some inside."""
    norm = draw(st.sampled_from(NORMS))
    dim = draw(st.integers(1, 12))
    radius = draw(st.floats(1e-3, 1e3))
    generator = stream(draw(st.integers(0, 2**30)))
    kwargs = {"generator": generator, "dtype": torch.float64}
    scale = torch.rand(dim, **kwargs) * 3 + 0.1 if draw(st.booleans()) else None
    size = 10 ** (4 * torch.rand(20, 1, **kwargs) - 2)
    vectors = radius * size * torch.randn(20, dim, **kwargs)
    vectors[0] = 0
    vectors[1] = vectors[1, 0]  # ties
    return make_ball(norm, radius, scale), norm, scale, vectors


def in_units(vectors, ball, scale):
    return vectors / ball.radius / (1.0 if scale is None else scale)


fast = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@fast
@given(cases())
def test_projection_is_inside_idempotent_and_nearest(case):
    ball, norm, scale, vectors = case
    projected = ball.project(vectors)
    v, p = in_units(vectors, ball, scale), in_units(projected, ball, scale)
    assert (norm_of(norm, p) <= 1 + 1e-12).all()
    torch.testing.assert_close(ball.project(projected), projected, rtol=0, atol=1e-12 * ball.radius)
    inside = norm_of(norm, v) <= 1
    torch.testing.assert_close(projected[inside], vectors[inside])
    # p is the nearest point of a convex set if and only if no point of the set is further along
    # v - p than p itself
    gap = support_function(norm, v - p) - ((v - p) * p).sum(-1)
    assert (gap <= 1e-9 * (1 + v.abs().amax(-1))).all()


@fast
@given(cases())
def test_steepest_step_maximises_the_inner_product(case):
    ball, norm, scale, gradient = case
    step = ball.steepest_step(gradient)
    best = ball.radius * support_function(norm, gradient * (1.0 if scale is None else scale))
    torch.testing.assert_close((step * gradient).sum(-1), best, rtol=1e-9, atol=1e-12)
    assert (norm_of(norm, in_units(step, ball, scale)) <= 1 + 1e-12).all()
    assert (step[0] == 0).all()


@fast
@given(cases())
def test_norm_and_samples_fit_the_ball(case):
    ball, norm, scale, vectors = case
    expected = ball.radius * norm_of(norm, in_units(vectors, ball, scale))
    torch.testing.assert_close(ball.norm(vectors), expected)
    samples = ball.sample(vectors, stream(0))
    assert samples.shape == vectors.shape
    assert (ball.norm(samples) <= ball.radius * (1 + 1e-12)).all()


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("norm", NORMS)
def test_samples_are_uniform(norm, dim, scaled):
    scale = torch.linspace(0.5, 2, dim) if scaled else None
    ball = make_ball(norm, 3.0, scale)
    unit = in_units(ball.sample(torch.zeros(3000, dim), stream(1)), ball, scale)
    # the volume within a share t of the radius is t^D
    assert stats.kstest(norm_of(norm, unit) ** dim, "uniform").pvalue > 1e-3
    # marginals: the volume of a slice at |x_i| = t
    marginal = {
        "l1": stats.beta(1, dim).cdf,
        "l2": lambda t: stats.beta(0.5, (dim + 1) / 2).cdf(t**2),
        "linf": stats.uniform.cdf,
    }[norm]
    for coordinate in unit.T:
        assert stats.kstest(coordinate.abs(), marginal).pvalue > 1e-3 / dim
        assert stats.binomtest(int((coordinate > 0).sum()), len(coordinate)).pvalue > 1e-3 / dim
    if dim > 1:  # signs and coordinates are exchangeable
        signs = unit.sign()
        assert float((signs[:, 0] * signs[:, 1]).mean().abs()) < 4 / 3000**0.5
        magnitudes = unit.abs()
        share = (magnitudes[:, 0] > magnitudes[:, -1]).double().mean()
        assert abs(float(share) - 0.5) < 4 * 0.5 / 3000**0.5


def test_samples_follow_the_generator():
    like = torch.zeros(4, 3)
    for norm in NORMS:
        ball = make_ball(norm, 1.0)
        assert torch.equal(ball.sample(like, stream(1)), ball.sample(like, stream(1)))
        assert not torch.equal(ball.sample(like, stream(1)), ball.sample(like, stream(2)))


def test_l1_projection_agrees_with_a_numerical_minimiser():
    generator = stream(0)
    for _ in range(5):
        v = torch.randn(4, generator=generator, dtype=torch.float64) * 2
        # delta = a - b with a, b >= 0 makes the constraint smooth
        result = optimize.minimize(
            lambda ab, v: ((ab[:4] - ab[4:] - v) ** 2).sum(),
            x0=[0.1] * 8,
            args=(v.numpy(),),
            bounds=[(0, None)] * 8,
            constraints={"type": "ineq", "fun": lambda ab: 1.5 - ab.sum()},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        nearest = torch.from_numpy(result.x[:4] - result.x[4:])
        torch.testing.assert_close(L1(1.5).project(v[None])[0], nearest, rtol=0, atol=1e-5)


def test_l1_steps_spread_over_five_percent_of_the_features():
    gradient = torch.randn(7, 60, generator=stream(0))
    step = L1(2.0).steepest_step(gradient)
    assert ((step != 0).sum(-1) == 3).all()
    torch.testing.assert_close(step.abs().sum(-1), torch.full((7,), 2.0))
    moved = (step != 0).float() * gradient.abs()
    torch.testing.assert_close(moved.sum(-1), gradient.abs().topk(3).values.sum(-1))
    assert ((step * gradient) >= 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_that_are_tiny_or_broken(norm):
    ball = make_ball(norm, 0.5)
    gradient = torch.tensor([[3e-30, -4e-30], [torch.nan, 1.0], [torch.inf, 1.0], [0.0, 0.0]])
    step = ball.steepest_step(gradient)
    torch.testing.assert_close(ball.norm(step), torch.tensor([0.5, 0.0, 0.0, 0.0]))
    assert ((step[0] * gradient[0]) >= 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_ball_of_radius_zero_is_a_point(norm):
    ball = make_ball(norm, 0.0, torch.tensor([1.0, 2.0]))
    vectors = torch.randn(5, 2, generator=stream(0))
    for result in (ball.project(vectors), ball.sample(vectors, stream(0))):
        assert torch.equal(result, torch.zeros(5, 2))


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_a_radius_for_each_row(norm, scaled):
    radii = torch.tensor([0.0, 0.3, 2.0, 0.0, 1e3], dtype=torch.float64)
    scale = torch.linspace(0.5, 2, 4) if scaled else None
    domain = torch.full((4,), -2.0), torch.full((4,), 2.0)
    x, vectors = (torch.randn(5, 4, generator=stream(i)) * 3 for i in range(2))
    vectors[2] *= 0.01  # inside of its ball
    rows = make_ball(norm, radii, scale, domain)
    single = [make_ball(norm, float(r), scale, domain) for r in radii]

    def one_by_one(function):
        return torch.cat([function(ball, slice(i, i + 1)) for i, ball in enumerate(single)])

    unit = make_ball(norm, 1.0, scale).sample(vectors, stream(2))
    for got, expected in (
        (rows.project(vectors), one_by_one(lambda b, i: b.project(vectors[i]))),
        (rows.steepest_step(vectors), one_by_one(lambda b, i: b.steepest_step(vectors[i]))),
        (rows.norm(vectors), one_by_one(lambda b, i: b.norm(vectors[i]))),
        (rows.feasible(x, vectors), one_by_one(lambda b, i: b.feasible(x[i], vectors[i]))),
        (rows.sample(vectors, stream(2)), radii.float().unsqueeze(-1) * unit),
    ):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected)
    assert (rows.project(vectors)[[0, 3]] == 0).all()
    assert (rows.steepest_step(vectors)[[0, 3]] == 0).all()


@pytest.mark.parametrize("count", [1, 4])
def test_radii_for_another_number_of_rows_are_refused(count):
    ball = make_ball("l2", torch.ones(count))
    for function in (ball.project, ball.steepest_step, lambda x: ball.sample(x, stream(0))):
        with pytest.raises(ValueError, match="one number, or 3: one for each row"):
            function(torch.zeros(3, 2))


def test_feasible_clips_to_the_box_without_leaving_the_ball():
    ball = L2(1.0, domain=(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0])))
    x = torch.tensor([[0.5, 0.5], [1.5, 0.5]])  # the second one lies outside of the box
    far = ball.feasible(x, x + torch.tensor([[30.0, 40.0], [3.0, 0.0]]))
    torch.testing.assert_close(far, torch.tensor([[1.0, 1.0], [1.5, 0.5]]))


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_perturbations_are_filled_up_to_their_size_where_the_domain_cuts_them(norm):
    x = torch.rand(50, 6, generator=stream(0))
    ball = make_ball(norm, 0.4, domain=(torch.zeros(6), torch.ones(6)))
    delta = torch.randn(50, 6, generator=stream(1))
    delta *= 0.4 / ball.norm(delta).unsqueeze(-1)
    assert float(ball.norm(ball.feasible(x, x + delta) - x).min()) < 0.3
    moved = ball.filled(x, delta)
    torch.testing.assert_close(ball.norm(moved - x), torch.full((50,), 0.4), rtol=1e-3, atol=0)
    assert ((moved >= 0) & (moved <= 1)).all()
    assert ((moved - x) * delta >= 0).all()
    cut = (moved == 0) | (moved == 1)
    factor = torch.where(cut, torch.nan, (moved - x) / delta)
    spread = factor.nan_to_num(-1).amax(1) - factor.nan_to_num(torch.inf).amin(1)
    assert float(spread.abs().nan_to_num(0, 0, 0).max()) < 1e-3  # others are as they were
    corner = torch.zeros(1, 6)
    assert (ball.filled(corner, -delta[:1].abs()) == 0).all()  # no room at all
    torch.testing.assert_close(make_ball(norm, 0.4).filled(x, delta), x + delta)


def test_names_and_radii_are_checked():
    assert [type(make_ball(n, 1.0)) for n in NORMS] == [L1, L2, Linf]
    with pytest.raises(ValueError, match="l1, l2, linf"):
        make_ball("l3", 1.0)
    for radius in (-0.1, math.nan, math.inf, torch.tensor([1.0, -0.1]), torch.ones(2, 1)):
        with pytest.raises(ValueError, match="radius"):
            L2(radius)
