import pytest
import torch
import zuko
from torch import nn

from robust_npe.estimators.flows import MAF, NSF
from robust_npe.estimators.univariate import LOG_SLOPE_LIMIT
from robust_npe.random import draws_from, stream
from tests.helpers import connect_directly

BINS, BOUND = 6, 4.0
SETTINGS = [  # dim_theta, dim_context, transforms, passes
    (1, 3, 2, None),
    (2, 5, 3, None),
    (4, 7, 3, None),
    (5, 2, 1, 2),
    (7, 3, 4, 3),
    (10, 4, 3, None),
]


@pytest.fixture(autouse=True)
def _own_random_state():
    """zuko initialises its modules from torch's global stream."""
    with torch.random.fork_rng():
        yield


def make_flow(kind, dim, context, transforms, passes, hidden=(16, 13)):
    with draws_from(stream(0, "weights")):
        if kind == "maf":
            flow = MAF(dim, context, transforms, hidden, passes)
        else:
            flow = NSF(dim, context, transforms, BINS, BOUND, hidden, passes)
    return connect_directly(flow)


class SmoothReLU(nn.Module):
    def forward(self, a):
        return torch.where(a.abs() < 1, (a + 1).square() / 4, a.relu())


class WithDirect(nn.Module):
    """A network with direct connections from its inputs to its outputs."""

    def __init__(self, net, weight):
        super().__init__()
        self.net, self.direct = net, nn.Parameter(weight)

    def forward(self, inputs):
        return self.net(inputs) + inputs @ self.direct.T


def affine_spline(shift, log_slope, *parameters):
    affine = zuko.transforms.MonotonicAffineTransform(shift, log_slope)
    spline = zuko.transforms.MonotonicRQSTransform(*parameters, bound=BOUND)
    return zuko.transforms.ComposedTransform(affine, spline)


def zuko_twin(flow, kind, context, passes, hidden=(16, 13)):
    """zuko's flow with the same weights."""
    settings = {} if passes is None else {"passes": passes}
    settings["activation"] = SmoothReLU
    if kind == "nsf":
        settings["univariate"] = affine_spline
        settings["shapes"] = [(), (), (BINS,), (BINS,), (BINS - 1,)]
    if flow.dim_theta == 1:
        settings.pop("passes", None)
    twin = zuko.flows.MAF(
        flow.dim_theta,
        context,
        transforms=len(flow.conditioners),
        hidden_features=list(hidden),
        **settings,
    )
    count = len(flow.conditioners)
    layers = flow.context.weight, flow.context.bias, flow.direct.weight
    terms = zip(*(layer.chunk(count) for layer in layers), strict=True)
    parts = zip(flow.conditioners, terms, twin.transform.transforms, strict=True)
    with torch.no_grad():
        for i, (mine, (weight, bias, direct), theirs) in enumerate(parts):
            copy_conditioner(mine, weight, bias, theirs.hyper, flow.dim_theta, reverse=i % 2 == 1)
            weight = direct_connections(mine, direct, flow.dim_theta, reverse=i % 2 == 1)
            theirs.hyper = WithDirect(theirs.hyper, weight)
    return twin.to(flow.context.weight.dtype)


def direct_connections(mine, context_weight, dim, reverse):
    """zuko has none, so they are a matrix `(D * P, D + C)`, for one coordinate `(P, C)`."""
    weight = torch.zeros(dim, mine.num_parameters, dim + context_weight.shape[1])
    own = mine.direct * mine.direct_mask
    weight[:, :2, : own.shape[1]] = own.unflatten(0, (dim, 2))
    if reverse:
        weight[..., :dim] = weight[..., :dim].flip(0, 2)
    columns = context_weight.unflatten(0, (dim, 2))
    weight[:, :2, dim:] = columns.flip(0) if reverse else columns
    return weight.flatten(0, 1)[:, 1 if dim == 1 else 0 :]


def copy_conditioner(mine, context_weight, context_bias, theirs, dim, reverse):
    """Ours are sorted by degree and in ascending order of coordinates."""
    layers = [layer for layer in theirs if not isinstance(layer, SmoothReLU)]
    groups = len(mine.blocks.slices)
    place = [torch.arange(layer.out_features) for layer in layers]
    for i, layer in enumerate(layers[:-1]):
        place[i] = (torch.arange(layer.out_features) % groups).argsort(stable=True)
    if reverse:
        place[-1] = place[-1].view(dim, -1).flip(0).flatten()
    first = torch.zeros_like(layers[0].weight)
    offset = 0 if dim == 1 else dim
    if mine.first is not None:
        columns = torch.arange(dim).flip(0) if reverse else torch.arange(dim)
        seen = columns[: mine.first.in_features]
        first[place[0].unsqueeze(1), seen] = mine.first.weight.float()
    first[place[0], offset:] = context_weight.float()
    layers[0].weight.copy_(first)
    layers[0].bias[place[0]] = context_bias.float()
    for i, layer in enumerate(mine.layers):
        layers[i + 1].weight[place[i + 1].unsqueeze(1), place[i]] = layer.weight.float()
        layers[i + 1].bias[place[i + 1]] = layer.bias.float()


def make_pair(kind, setting, dtype):
    dim, context, transforms, passes = setting
    flow = make_flow(kind, dim, context, transforms, passes)
    twin = zuko_twin(flow, kind, context, passes)
    generator = stream(0, "data")
    c = torch.randn(3, context, generator=generator, dtype=torch.float64).to(dtype)
    theta = 2 * torch.randn(5, 3, dim, generator=generator, dtype=torch.float64).to(dtype)
    return flow.to(dtype), twin.to(dtype), c, theta


TOLERANCE = {
    torch.float32: {"rtol": 1e-4, "atol": 1e-4},
    torch.float64: {"rtol": 1e-9, "atol": 1e-10},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", ["maf", "nsf"])
class TestAgainstZuko:
    def test_log_prob_and_its_gradients(self, kind, setting, dtype):
        flow, twin, c, theta = make_pair(kind, setting, dtype)
        values = []
        for model in (flow, twin):
            inputs = c.clone().requires_grad_(True), theta.clone().requires_grad_(True)
            log_prob = model(inputs[0]).log_prob(inputs[1])
            values.append([log_prob, *torch.autograd.grad(log_prob.sum(), inputs)])
        for ours, theirs in zip(*values, strict=True):
            torch.testing.assert_close(ours, theirs, **TOLERANCE[dtype])

    @pytest.mark.parametrize("grad", [True, False])
    def test_inverse(self, kind, setting, dtype, grad):
        flow, twin, c, theta = make_pair(kind, setting, dtype)
        with torch.set_grad_enabled(grad):
            with draws_from(stream(0, "noise")):
                ours, log_prob = flow(c).rsample_and_log_prob((5,))
            with draws_from(stream(0, "noise")):
                z = torch.randn(theta.shape, dtype=dtype)
            # the base is symmetric; zuko keeps the order of the coordinates of z
            z = z if setting[2] % 2 else z.flip(-1)
            theirs = twin(c).transform.inv(z)
            torch.testing.assert_close(ours, theirs, **TOLERANCE[dtype])
            torch.testing.assert_close(log_prob, twin(c).log_prob(theirs), **TOLERANCE[dtype])

    def test_gradients_of_samples(self, kind, setting, dtype):
        flow, twin, c, theta = make_pair(kind, setting, dtype)
        c.requires_grad_(True)
        with draws_from(stream(0, "noise")):
            ours = flow(c).rsample((5,))
        with draws_from(stream(0, "noise")):
            z = torch.randn(theta.shape, dtype=dtype)
        theirs = twin(c).transform.inv(z if setting[2] % 2 else z.flip(-1))
        gradients = [torch.autograd.grad(t.square().sum(), c)[0] for t in (ours, theirs)]
        torch.testing.assert_close(*gradients, **TOLERANCE[dtype])


@pytest.mark.parametrize("kind", ["maf", "nsf"])
class TestFlow:
    @pytest.mark.parametrize("setting", SETTINGS, ids=str)
    def test_initial_weights_are_distributed_as_in_zuko(self, kind, setting):
        dim, context, transforms, passes = setting
        flow = make_flow(kind, dim, context, transforms, passes, hidden=(200, 100))
        bound = (dim + context) ** -0.5
        assert 0.95 * bound < flow.context.weight.abs().max() <= bound
        assert flow.conditioners[0].layers[0].weight.abs().max() <= 200**-0.5

    @pytest.mark.parametrize("setting", SETTINGS, ids=str)
    def test_gradients_reach_every_parameter(self, kind, setting):
        flow, _, c, theta = make_pair(kind, setting, torch.float32)
        flow(c).log_prob(theta).sum().backward()
        parameters = [p for p in flow.parameters() if p.numel()]
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)

    @pytest.mark.parametrize("setting", SETTINGS, ids=str)
    def test_pieces_do_not_change_the_result(self, kind, setting, monkeypatch):
        flow, _, c, theta = make_pair(kind, setting, torch.float64)
        whole = flow(c).log_prob(theta), sample(flow(c), 5)
        monkeypatch.setattr("robust_npe.estimators.autoregressive.MAX_COLUMNS", 6)
        torch.testing.assert_close((flow(c).log_prob(theta), sample(flow(c), 5)), whole)

    def test_batch_shapes(self, kind):
        flow, _, c, theta = make_pair(kind, (4, 7, 3, None), torch.float64)
        expected = flow(c).log_prob(theta)
        torch.testing.assert_close(flow(c[1]).log_prob(theta[:, 1]), expected[:, 1])
        torch.testing.assert_close(flow(c).log_prob(theta[2]), expected[2])
        torch.testing.assert_close(flow(c.expand(5, 3, 7)).log_prob(theta), expected)
        assert flow(c).log_prob(theta[0, 0]).shape == (3,)
        assert flow(c[0]).sample().shape == (4,)
        assert flow(c.expand(5, 3, 7)).sample((2, 6)).shape == (2, 6, 5, 3, 4)

    def test_jacobian_is_that_of_autograd(self, kind):
        flow, _, c, _ = make_pair(kind, (4, 7, 3, None), torch.float64)
        q = flow(c[:1])
        with draws_from(stream(0, "noise")), torch.no_grad():
            theta, log_prob = q.rsample_and_log_prob()
        torch.testing.assert_close(q.log_prob(theta), log_prob)

        def to_z(value):
            for i, conditioner in enumerate(q._conditioners):
                value = value.flip(0) if i else value
                value, _ = flow.univariate.forward(value, conditioner.parameters(value))
            return value

        jacobian = torch.autograd.functional.jacobian(to_z, theta.T).reshape(4, 4)
        log_base = torch.distributions.Normal(0.0, 1.0).log_prob(to_z(theta.T)).sum()
        torch.testing.assert_close(log_prob[0], log_base + jacobian.det().abs().log())

    @pytest.mark.parametrize("setting", SETTINGS, ids=str)
    def test_gradients_of_samples_reach_the_weights(self, kind, setting):
        flow, _, c, _ = make_pair(kind, setting, torch.float64)
        names = [name for name, _ in flow.named_parameters()]

        def samples(*weights):
            q = torch.func.functional_call(flow, dict(zip(names, weights, strict=True)), (c,))
            with draws_from(stream(0, "noise")):
                return q.rsample((2,))

        weights = [p.detach().clone().requires_grad_() for p in flow.parameters()]
        assert torch.autograd.gradcheck(samples, weights, fast_mode=True)

    def test_second_derivatives(self, kind):
        flow, _, c, theta = make_pair(kind, (4, 7, 2, None), torch.float64)
        c.requires_grad_(True)
        assert torch.autograd.gradgradcheck(lambda c: flow(c).log_prob(theta), (c,))

    def test_state_is_plain(self, kind):
        flow, other = (make_flow(kind, 3, 2, 2, None) for _ in range(2))
        with torch.no_grad():
            flow.context.weight.mul_(2)
        state = flow.state_dict()
        assert set(state) == {name for name, _ in flow.named_parameters()}
        other.load_state_dict(state)
        c, theta = torch.ones(1, 2), torch.ones(1, 3)
        assert torch.equal(flow(c).log_prob(theta), other(c).log_prob(theta))


def sample(q, num_samples):
    with draws_from(stream(0, "noise")):
        return q.sample((num_samples,))


@pytest.mark.parametrize("passes", [None, 2])
@pytest.mark.parametrize("kind", ["maf", "nsf"])
def test_direct_connections_alone_are_a_linear_gaussian_density(kind, passes):
    flow = make_flow(kind, 4, 3, 1, passes).double()
    (net,), c = flow.conditioners, torch.randn(6, 3, generator=stream(1)).double()
    with torch.no_grad():
        for parameter in net.layers[-1].parameters():
            parameter.zero_()
        net.direct[1::2] = 0  # widths that depend on theta would not be Gaussian
        shift, raw = flow.direct(c).unflatten(1, (4, 2)).unbind(-1)
        # z = M theta + shift with M lower triangular
        M = (raw / (1 + raw.abs() / LOG_SLOPE_LIMIT)).exp().diag_embed()
        M[:, :, : net.direct.shape[1]] += (net.direct * net.direct_mask)[::2]
        mean = torch.linalg.solve(M, -shift.unsqueeze(-1)).squeeze(-1)
        expected = torch.distributions.MultivariateNormal(mean, precision_matrix=M.mT @ M)
        theta = expected.mean + torch.randn(5, 6, 4, generator=stream(2)).double()
        torch.testing.assert_close(flow(c).log_prob(theta), expected.log_prob(theta))
        assert (M.tril(-1).abs() > 0.01).sum() >= 4 * 6
        samples = sample(flow(c), 20_000)
    error = (samples.mean(0) - mean).abs() / expected.stddev * 20_000**0.5
    assert error.max() < 4.5


def test_a_spline_is_the_identity_outside_of_its_interval():
    flow = make_flow("nsf", 1, 2, 1, None).double()
    q = flow(torch.ones(2, dtype=torch.float64))
    shift, raw = q._conditioners[0].parameters(torch.zeros(1, 1, dtype=torch.float64))[:2]
    log_slope = raw / (1 + raw.abs() / LOG_SLOPE_LIMIT)
    y = torch.tensor([[-7.0], [-BOUND], [BOUND], [123.0]], dtype=torch.float64)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(y) + log_slope
    theta = (y - shift) / log_slope.exp() * (1 + 1e-12)
    torch.testing.assert_close(q.log_prob(theta), expected.squeeze(-1))
