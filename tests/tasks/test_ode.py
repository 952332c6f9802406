import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from robust_npe.random import stream
from robust_npe.tasks.lotka_volterra import LotkaVolterra, lotka_volterra_system
from robust_npe.tasks.ode import solve_rk4
from robust_npe.tasks.sir import SIR


def exact(right_hand_side, initial, times):
    """Solve with scipy to about ten digits: the reference that solutions are held against."""
    span = (times[0], times[-1])
    options = {"t_eval": times, "rtol": 1e-10, "atol": 1e-12, "method": "DOP853"}
    return solve_ivp(right_hand_side, span, initial, **options).y


def decay(rates):
    return lambda state, out: lambda: torch.mul(-rates[0], state, out=out)


def test_error_falls_with_the_fourth_power_of_the_step():
    rates = torch.tensor([[1.0]])
    errors = [
        abs(float(solve_rk4(decay, torch.ones(1), rates, 1.0, 2, n)[0, 0, -1]) - np.exp(-1))
        for n in (4, 8)
    ]
    assert errors[0] / errors[1] == pytest.approx(16, rel=0.15)


def test_lotka_volterra_is_far_closer_to_scipy_than_the_noise():
    task = LotkaVolterra()
    theta = 3 * task.sample_prior(20, stream(0, "theta"))
    a, b, c, d = torch.exp(torch.sigmoid(theta.double())).T.numpy()
    for i, solution in enumerate(task.solution(theta)):
        reference = exact(
            lambda _, y, i=i: [
                a[i] * y[0] - b[i] * y[0] * y[1],
                d[i] * y[0] * y[1] - c[i] * y[1],
            ],
            [1.0, 1.0],
            task.times.numpy(),
        )
        assert np.abs(solution.numpy() - reference.ravel()).max() < 1e-5


def test_sir_is_far_closer_to_scipy_than_the_noise():
    task = SIR()
    theta = task.sample_prior(20, stream(0, "theta"))
    beta, gamma = torch.sigmoid(theta.double()).T.numpy()
    for i, solution in enumerate(task.solution(theta)):
        reference = exact(
            lambda _, y, i=i: [
                -beta[i] * y[0] * y[1] / 5,
                beta[i] * y[0] * y[1] / 5 - gamma[i] * y[1],
            ],
            [5.0, 0.25],
            task.times.numpy(),
        )[1]
        assert np.abs(solution.numpy() - reference).max() < 1e-5
        assert np.abs(np.log(solution.numpy() + 1e-4) - np.log(reference + 1e-4)).max() < 1e-4


def test_members_do_not_depend_on_block_or_batch():
    rates = torch.exp(torch.rand(7, 4, generator=stream(1), dtype=torch.float64))
    whole = solve_rk4(lotka_volterra_system, torch.ones(2), rates, 5.0, 6, 4)
    cut = solve_rk4(lotka_volterra_system, torch.ones(2), rates, 5.0, 6, 4, block=3)
    single = solve_rk4(lotka_volterra_system, torch.ones(2), rates[2], 5.0, 6, 4)
    torch.testing.assert_close(whole, cut, rtol=1e-13, atol=0)
    torch.testing.assert_close(whole[2], single, rtol=1e-13, atol=0)


def test_leading_dimensions_are_kept():
    rates = torch.ones(2, 3, 4)
    assert solve_rk4(lotka_volterra_system, torch.ones(2), rates, 1.0, 5, 1).shape == (2, 3, 2, 5)
    none = solve_rk4(lotka_volterra_system, torch.ones(2), rates[:, :0], 1.0, 5, 1)
    assert none.shape == (2, 0, 2, 5)


def test_overflow_stays_non_finite():
    rates = torch.tensor([[1e6], [1.0]])
    solution = solve_rk4(decay, torch.ones(1), rates, 1e3, 40, 1)
    assert not torch.isfinite(solution[0, 0, -1])
    assert torch.isfinite(solution[1]).sum() > 1


@pytest.mark.parametrize(
    ("duration", "num_points", "substeps", "name"),
    [(0.0, 5, 1, "duration"), (1.0, 1, 1, "num_points"), (1.0, 5, 0, "substeps")],
)
def test_bad_sizes_are_named(duration, num_points, substeps, name):
    with pytest.raises(ValueError, match=name):
        solve_rk4(decay, torch.ones(1), torch.ones(1, 1), duration, num_points, substeps)


def test_a_gradient_is_refused_instead_of_being_lost():
    rates = torch.ones(1, 1, requires_grad=True)
    with pytest.raises(ValueError, match="cannot give"):
        solve_rk4(decay, torch.ones(1), rates, 1.0, 5, 1)
    with torch.no_grad():
        solve_rk4(decay, torch.ones(1), rates, 1.0, 5, 1)
