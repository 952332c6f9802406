import copy

import pytest
import torch
from torch import nn

from robust_npe.checks import ConfigError
from robust_npe.defenses import NoDefense, Spectral
from robust_npe.defenses.spectral import constrained_layers, power_step
from robust_npe.estimators import (
    MAF,
    MLP,
    NSF,
    CNN1d,
    CNN2d,
    DiagonalGaussian,
    Identity,
    MixtureDensityNetwork,
    NflowsMAF,
)
from robust_npe.random import draws_from, stream
from robust_npe.training import TrainingSettings, train
from tests.helpers import (
    connect_directly,
    linear_task,
    make_estimator,
    observations,
    pairs,
    prior_draws,
)

HEADS = {
    "gaussian": DiagonalGaussian,
    "mdn": MixtureDensityNetwork,
    "maf": MAF,
    "nsf": NSF,
    "nflows_maf": NflowsMAF,
}
GAIN = 0.8


def small(kind):
    return lambda dim_theta, dim_context: HEADS[kind](dim_theta, dim_context, hidden=(16, 16))


def constrained(estimator, gain=GAIN, dim_x=3, steps=1, **settings):
    defense = Spectral(gain, **settings)
    defense.setup(estimator, prior_draws(20), observations(20, dim_x))
    for _ in range(steps):
        defense.constrain(estimator)
    return defense


def matrix(layer, mask, shape):
    """The layer as a matrix, column by column."""
    weight = layer.weight if mask is None else layer.weight * mask
    if isinstance(layer, nn.Linear):
        # a masked layer of nflows masks itself
        return weight * getattr(layer, "mask", 1.0)
    basis = torch.eye(shape.numel()).reshape(-1, *shape)
    convolve = {3: nn.functional.conv1d, 4: nn.functional.conv2d}[weight.ndim]
    return convolve(basis, weight, padding=layer.padding).flatten(1).T


def norms(estimator, defense):
    return {
        name: float(
            torch.linalg.matrix_norm(
                matrix(layer, mask, defense.state_dict()["vectors"][name].shape[1:]), 2
            ).detach()
        )
        for name, layer, mask in constrained_layers(estimator)
    }


@pytest.mark.parametrize("kind", HEADS)
def test_every_layer_has_the_norm_or_is_left_alone(kind):
    estimator = make_estimator(small(kind), embedding=MLP, gain=1.5)
    with torch.no_grad():
        estimator.embedding.net[-1].weight.mul_(1e-3)
    before = copy.deepcopy(estimator)
    defense = constrained(estimator)
    old, new = norms(before, defense), norms(estimator, defense)
    assert any(norm > GAIN for norm in old.values())
    for name, norm in new.items():
        assert norm == pytest.approx(min(GAIN, old[name]), rel=0.01)
    weights = {f"{name}.weight" for name in new}
    for name, p in before.named_parameters():
        changed = not torch.equal(p, estimator.get_parameter(name))
        assert changed == (name in weights and old[name.removesuffix(".weight")] > GAIN)


@pytest.mark.parametrize("kind", ["maf", "nflows_maf"])
def test_what_only_theta_passes_is_free(kind):
    estimator = make_estimator(small(kind), gain=1.5)
    layers = {name for name, _, _ in constrained_layers(estimator)}
    everything = {n for n, m in estimator.named_modules() if isinstance(m, nn.Linear)}
    free = ("first", "initial_layer")
    assert everything - layers == {name for name in everything if name.endswith(free)}
    assert len(everything - layers) > 1


@pytest.mark.parametrize(
    ("embedding", "dim_x"),
    [
        (lambda dim_x: CNN1d(dim_x, channels=(3, 4), dim_out=5), 30),
        (lambda dim_x: CNN2d(dim_x, channels=(3, 4), dim_out=5), 36),
    ],
)
def test_convolutions_are_bounded_as_linear_maps(embedding, dim_x):
    estimator = make_estimator(small("gaussian"), dim_x=dim_x, embedding=embedding, gain=2.0)
    defense = constrained(estimator, dim_x=dim_x)
    values = norms(estimator, defense)
    assert len(values) == 6
    for norm in values.values():
        assert norm == pytest.approx(GAIN, rel=0.01)


@pytest.mark.parametrize("kind", ["gaussian", "maf"])
def test_outputs_move_by_at_most_the_product_of_the_bounds(kind):
    """The parameters of q at given theta, for observations far apart and close together."""
    estimator = make_estimator(small(kind), embedding=MLP, gain=1.5)
    connect_directly(estimator, 30)
    constrained(estimator, gain=1.3)
    largest = 1.3**4 * (1.3**3 + (0 if kind == "gaussian" else 1.3))

    def outputs(x):
        context = estimator.context(x)
        if kind == "gaussian":
            return estimator.head.net(context)
        theta = prior_draws(len(x)).T
        nets = estimator.head(context)._conditioners
        return torch.cat([net.parameters(theta).flatten(0, 1) for net in nets]).T

    for size in (1e-2, 1.0, 100.0):
        x = observations(500)
        y = x + size * torch.randn(x.shape, generator=stream(0))
        distance = (estimator.standardize(x) - estimator.standardize(y)).norm(dim=1)
        moved = (outputs(x) - outputs(y)).detach().norm(dim=1)
        assert (moved <= 1.01 * largest * distance + 1e-5).all()


def test_without_hidden_layers_and_embedding_direct_connections_reach_the_bound():
    estimator = make_estimator(small("maf"))
    connect_directly(estimator, 30)
    with torch.no_grad():
        for net in estimator.head.conditioners:
            net.layers[-1].weight.zero_()
    constrained(estimator, steps=3)
    x = torch.zeros(1, 3, requires_grad=True)
    theta = prior_draws(1).T

    def outputs(context):
        nets = estimator.head(context)._conditioners
        return torch.cat([net.parameters(theta).flatten() for net in nets])

    jacobian = torch.autograd.functional.jacobian(outputs, x).squeeze(1)
    assert torch.linalg.matrix_norm(jacobian, 2) == pytest.approx(GAIN, rel=0.01)


def test_layers_that_start_from_zero_are_bounded_once_they_are_not_zero():
    estimator = make_estimator(small("maf"))
    assert not estimator.head.direct.weight.any()
    defense = constrained(estimator, steps=0)
    assert defense.state_dict()["vectors"]["head.direct"].norm() == pytest.approx(1)
    connect_directly(estimator, 30)
    for _ in range(30):
        defense.constrain(estimator)
    assert norms(estimator, defense)["head.direct"] == pytest.approx(GAIN, rel=0.01)


def train_on(defense, estimator):
    task = linear_task()
    data = pairs(task, 512), pairs(task, 128, seed=1)
    settings = TrainingSettings(batch_size=64, max_epochs=12, learning_rate=5e-3)
    train(estimator, defense, *data, settings, stream(0, "train"))
    return estimator


@pytest.mark.parametrize("kind", ["gaussian", "maf"])
def test_trained_nets_satisfy_the_bound(kind):
    """Averaged weights, too, whose convex combinations keep it."""
    defense = Spectral(GAIN)
    estimator = train_on(defense, make_estimator(small(kind), dim_x=2, embedding=Identity))
    values = norms(estimator, defense).values()
    assert max(values) < 1.01 * GAIN
    assert sum(norm > 0.95 * GAIN for norm in values) >= 2  # it was in the way
    plain = train_on(NoDefense(), make_estimator(small(kind), dim_x=2, embedding=Identity))
    assert max(norms(plain, defense).values()) > 1.5 * GAIN


def test_the_state_goes_on_where_it_was():
    estimator = make_estimator(small("maf"), gain=1.5)
    a = constrained(estimator, steps=3)
    b = constrained(copy.deepcopy(estimator), steps=0)
    assert a.state_dict()["vectors"].keys() == b.state_dict()["vectors"].keys()
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    others = [copy.deepcopy(estimator) for _ in range(2)]
    with torch.no_grad():
        for other in others:
            for p in other.parameters():
                p.add_(0.1 * p.flip(0))
    for defense, other in zip((a, b), others, strict=True):
        defense.constrain(other)
    for p, q in zip(*(other.parameters() for other in others), strict=True):
        assert torch.equal(p, q)


def test_power_steps_approach_the_largest_singular_value_from_below():
    with draws_from(stream(0, "weights")):
        layer, vector = nn.Linear(6, 4), torch.ones(6) / 6**0.5
    largest = torch.linalg.svdvals(layer.weight.detach())[0]
    estimates = []
    for _ in range(100):
        vector, norm = power_step(layer, None, vector)
        estimates.append(norm)
    assert torch.stack(estimates).diff().min() > -1e-6
    torch.testing.assert_close(estimates[-1], largest)
    assert estimates[0] < 0.99 * largest


def test_a_power_step_at_zero_keeps_the_vector():
    with draws_from(stream(0, "weights")):
        layer, vector = nn.Linear(3, 2), torch.tensor([0.0, 0.6, 0.8])
    nn.init.zeros_(layer.weight)
    kept, norm = power_step(layer, None, vector)
    assert torch.equal(kept, vector)
    assert norm == 0


@pytest.mark.parametrize("arguments", [{"gain": 0.0}, {"iterations": 0}])
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(ConfigError, match=f"defense.{next(iter(arguments))}"):
        Spectral(**arguments)
