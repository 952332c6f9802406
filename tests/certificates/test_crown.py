from __future__ import annotations

from itertools import product

import pytest
import torch

from robust_npe.attacks import make_ball
from robust_npe.certificates.crown import Relaxation, relaxed
from robust_npe.certificates.region import Region
from robust_npe.random import stream

NORMS = ("l1", "l2", "linf")


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=stream(seed, "weights"), dtype=torch.float64)


def random_layers(sizes):
    shapes = zip(sizes[1:], sizes[:-1], strict=True)
    return [(gaussian(n, m, seed=i), gaussian(n, seed=-i)) for i, (n, m) in enumerate(shapes, 1)]


def evaluate(layers, x):
    for i, (weight, bias) in enumerate(layers):
        x = (x.relu() if i else x) @ weight.T + bias
    return x


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("sizes", [(3, 2), (3, 6, 2), (3, 5, 7, 4)])
def test_outputs_stay_within_bounds_and_reach_them_where_nothing_crosses(norm, sizes):
    layers, x = random_layers(sizes), gaussian(100, sizes[0], seed=9)
    for radius in (1e-4, 0.1, 1.0):
        ball = make_ball(norm, radius)
        region = Region.of(ball, x)
        values, relaxation = relaxed(layers, x, region)
        torch.testing.assert_close(values, evaluate(layers, x))
        draws = torch.stack([ball.sample(x, stream(i)) for i in range(200)])
        corners = radius * torch.tensor(list(product((-1.0, 1.0), repeat=3)), dtype=x.dtype)
        steps = [ball.steepest_step(g.expand_as(x)) for g in relaxation.slope[0]]
        axes = radius * torch.cat([torch.eye(3), -torch.eye(3)]).to(x)
        points = corners if norm == "linf" else axes
        points = torch.cat([draws, torch.stack(steps), points.unsqueeze(1).expand(-1, 100, -1)])
        change = evaluate(layers, x + points) - values
        low, high = relaxation.bounds(region)
        assert ((low - 1e-12 <= change) & (change <= high + 1e-12)).all()
        reached = (change.amax(0) / high).median()
        assert reached > (0.9 if radius < 1e-3 else 0.3)
        square = relaxation.squared_norm(region)
        assert (change.square().sum(-1).amax(0) <= square * (1 + 1e-9)).all()


def test_one_unit_is_bounded_by_its_triangle():
    # relu(z + dz) - relu(z) for z = 1 and |dz| <= 3: between -1 and 3
    one, zero = torch.ones(1, 1).double(), torch.zeros(1).double()
    x = one.clone()
    region = Region.of(make_ball("linf", 3.0), x)
    value, (slope, offset, error) = relaxed([(one, zero), (one, zero)], x, region)
    assert float(value) == 1
    slope, offset, error = float(slope), float(offset), float(error.abs())
    assert slope == pytest.approx(4 / 6)  # from (-2, 0) to (4, 4)
    change = torch.linspace(-3, 3, 601)
    beyond = (1 + change).relu() - 1 - slope * change - offset
    assert float(beyond.max()) == pytest.approx(error)
    assert float(beyond.min()) == pytest.approx(-error)


@pytest.mark.parametrize(("norm", "ratio"), [("l2", 1.3), ("linf", 1.3), ("l1", 1.5)])
def test_joint_bound_is_close_to_the_largest_norm_over_all_corners(norm, ratio):
    # Nesterov (1998): over a box, the dual is at most pi / 2 times the largest value
    slope, offset, error = gaussian(50, 3, 2), gaussian(50, 3, seed=1), gaussian(50, 3, 5, seed=2)
    region = Region.of(make_ball(norm, 1.0), gaussian(50, 2))
    bound = Relaxation(slope, offset, error).squared_norm(region)
    angle = torch.linspace(0, 2 * torch.pi, 361, dtype=torch.float64)
    delta = {
        "l2": torch.stack([angle.cos(), angle.sin()]),
        "linf": torch.tensor(list(product((-1.0, 1.0), repeat=2))).double().T,
        "l1": torch.cat([torch.eye(2), -torch.eye(2)]).double().T,
    }[norm]
    signs = torch.tensor(list(product((-1.0, 1.0), repeat=5))).double().T
    vectors = (slope @ delta).unsqueeze(-1) + (error @ signs).unsqueeze(-2)
    largest = (vectors + offset[..., None, None]).square().sum(1).amax((1, 2))
    assert (bound >= largest * (1 - 1e-4)).all()  # angles are a grid
    assert (bound <= largest * torch.pi / 2).all()
    assert (bound / largest).median() < ratio
