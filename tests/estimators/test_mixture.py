from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from robust_npe.estimators import GaussianMixture, MixtureDensityNetwork
from robust_npe.random import draws_from, stream

K, D = 3, 2
NAMES = ("logits", "means", "stds")


def parameters(batch=(), seed=1, dtype=torch.float64):
    g = stream(seed)
    logits = torch.randn(K, generator=g, dtype=dtype)
    means = 1.5 * torch.randn(K, D, generator=g, dtype=dtype)
    stds = 0.4 + torch.rand(K, D, generator=g, dtype=dtype)
    return [t.expand(*batch, *t.shape).clone() for t in (logits, means, stds)]


def moments(logits, means, stds):
    """Closed-form expectations of smooth functions of theta, shape `(5,)`."""
    w = logits.softmax(-1)[:, None]
    second = (w * (means**2 + stds**2)).sum(0)
    cross = (w[:, 0] * means[:, 0] * means[:, 1]).sum(0, keepdim=True)
    sine = (w * torch.sin(means) * torch.exp(-(stds**2) / 2)).sum(0)
    return torch.cat([second, cross, sine])


def functions(theta):
    cross = (theta[..., 0] * theta[..., 1]).unsqueeze(-1)
    return torch.cat([theta**2, cross, torch.sin(theta)], -1)


def finite_differences(function, tensors, i, step=1e-6):
    """Derivative of a vector-valued function by one of its tensors, entries last."""
    columns = []
    for entry in range(tensors[i].numel()):
        shifted = []
        for sign in (1, -1):
            moved = [t.clone() for t in tensors]
            moved[i].view(-1)[entry] += sign * step
            shifted.append(function(*moved))
        columns.append((shifted[0] - shifted[1]) / (2 * step))
    return torch.stack(columns, -1)


def test_density_is_that_of_torch():
    logits, means, stds = parameters((4,))
    reference = MixtureSameFamily(Categorical(logits=logits), Independent(Normal(means, stds), 1))
    theta = 2 * torch.randn(6, 4, D, generator=stream(2), dtype=torch.float64)
    ours = GaussianMixture(logits, means, stds)
    torch.testing.assert_close(ours.log_prob(theta), reference.log_prob(theta))
    assert ours.batch_shape == (4,)
    assert ours.event_shape == (D,)


def test_samples_have_the_moments():
    q = GaussianMixture(*parameters())
    with draws_from(stream(0)):
        values = functions(q.sample((100_000,)))
    error = values.std(0) / len(values) ** 0.5
    assert ((values.mean(0) - moments(*parameters())).abs() < 4.5 * error).all()


def test_reparameterised_samples_are_the_samples():
    tensors = [t.requires_grad_(True) for t in parameters((3,))]
    q = GaussianMixture(*tensors)
    with draws_from(stream(0)):
        theta = q.rsample((7,))
    with draws_from(stream(0)):
        expected = q.sample((7,))
    assert torch.equal(theta.detach(), expected)
    assert theta.requires_grad
    with torch.no_grad(), draws_from(stream(0)):
        assert not q.rsample((7,)).requires_grad


@pytest.mark.parametrize("i", range(3), ids=NAMES)
def test_gradients_of_samples_against_finite_differences_of_moments(i):
    exact = finite_differences(moments, parameters(), i)
    # one row per sample, so that the spread of the gradients is known; only one tensor at a time
    # carries gradients
    tensors = parameters((20_000,))
    tensors[i].requires_grad_(True)
    with draws_from(stream(0)):
        values = functions(GaussianMixture(*tensors).rsample())
    power = 0.0
    for value, expected in zip(values.T, exact, strict=True):
        (gradient,) = torch.autograd.grad(value.sum(), tensors[i], retain_graph=True)
        gradient = gradient.flatten(1)
        error = gradient.std(0) / len(gradient) ** 0.5
        assert ((gradient.mean(0) - expected).abs() < 4.5 * error + 1e-6).all()
        power = max(power, float((expected.abs() / (error + 1e-9)).max()))
    assert power > 20


def test_jacobian_of_the_uniforms_against_autograd():
    logits, means, stds = parameters()
    means, stds = (torch.cat([t, t.flip(0)], -1) for t in (means, stds))  # four coordinates
    q = GaussianMixture(logits, means, stds)
    theta = torch.randn(4, generator=stream(3), dtype=torch.float64)
    expected = torch.autograd.functional.jacobian(q._uniforms, theta)
    torch.testing.assert_close(q._uniforms_jacobian(theta), expected)
    assert float(expected.tril(-1).abs().max()) > 0.01


def test_uniforms_of_samples_are_uniform_and_independent():
    q = GaussianMixture(*parameters())
    with draws_from(stream(0)):
        u = q._uniforms(q.sample((20_000,)))
    torch.testing.assert_close(u.mean(0), torch.full((D,), 0.5).double(), atol=0.01, rtol=0)
    torch.testing.assert_close(u.var(0), torch.full((D,), 1 / 12).double(), atol=0.003, rtol=0)
    assert abs(float(torch.corrcoef(u.T)[0, 1])) < 0.03


def test_components_far_apart_give_finite_gradients():
    logits = torch.tensor([0.0, -3.0])
    means = torch.tensor([[-300.0, 300.0], [300.0, -300.0]], requires_grad=True)
    stds = torch.tensor([[0.01, 5.0], [5.0, 0.01]])
    with draws_from(stream(0)):
        theta = GaussianMixture(logits, means, stds).rsample((500,))
    (gradient,) = torch.autograd.grad(theta.mean(0).sum(), means)
    assert gradient.isfinite().all()
    # a sample moves with the mean of its own component
    share = (theta[:, 0] < 0).float().mean()
    expected = torch.stack([share, 1 - share]).unsqueeze(1).expand(2, 2)
    torch.testing.assert_close(gradient, expected.detach(), atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_components_too_narrow_for_numbers_do_not_spoil_the_others(dtype):
    stds = torch.tensor([-200.0, 0.0], dtype=dtype).exp()[:, None].requires_grad_(True)
    theta = torch.tensor([0.5], dtype=dtype, requires_grad=True)
    logits, means = torch.zeros(2, dtype=dtype), torch.zeros(2, 1, dtype=dtype)
    log_prob = GaussianMixture(logits, means, stds).log_prob(theta)
    expected = math.log(0.5) + Normal(0.0, 1.0).log_prob(torch.tensor(0.5))
    assert float(log_prob.detach()) == pytest.approx(float(expected), abs=1e-6)
    gradients = torch.autograd.grad(log_prob, (theta, stds))
    assert gradients[0].item() == pytest.approx(-0.5, abs=1e-6)
    assert gradients[1].isfinite().all()


def test_training_cannot_reach_widths_that_are_no_numbers():
    with draws_from(stream(0)):
        net = MixtureDensityNetwork(2, 3, components=2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1e4)
    q = net(torch.randn(50, 3, generator=stream(1)))
    assert float(q.stds.detach().min()) > 1e-6
    assert float(q.stds.detach().max()) < 1e6
    assert q.log_prob(torch.zeros(50, 2)).isfinite().all()
