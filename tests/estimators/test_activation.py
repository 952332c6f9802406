import torch

from robust_npe.estimators.activation import limited, limited_slope, slope_of, smooth_relu


def grid():
    return torch.linspace(-12, 12, 481, dtype=torch.float64).requires_grad_(True)


def test_smooth_relu_is_a_mean_of_relus():
    a = grid()
    u = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    mean = torch.trapezoid((a.detach().unsqueeze(1) + u).relu(), u, dim=1) / 2
    h = smooth_relu(a)
    torch.testing.assert_close(h.detach(), mean, rtol=0, atol=1e-8)
    (slope,) = torch.autograd.grad(h.sum(), a, create_graph=True)
    torch.testing.assert_close(slope.detach(), slope_of(h.detach()))
    (second,) = torch.autograd.grad(slope.sum(), a)
    inside = a.detach().abs() < 0.99
    assert torch.equal(second[inside], torch.full_like(second[inside], 0.5))
    assert not second[a.detach().abs() > 1.01].any()


def test_limited_is_the_identity_where_data_are_and_grows_slowly_beyond():
    t = grid()
    value = limited(t)
    inside = t.detach().abs() <= 5
    assert torch.equal(value[inside], t[inside])
    assert (value.diff() > 0).all()
    assert limited(torch.tensor(5e6)) < 80
    (slope,) = torch.autograd.grad(value.sum(), t)
    torch.testing.assert_close(slope, limited_slope(t).detach())
