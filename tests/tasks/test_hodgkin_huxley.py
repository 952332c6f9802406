import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from robust_npe.random import stream
from robust_npe.tasks.hodgkin_huxley import PAPER_BOUNDS, STEP_CURRENT, HodgkinHuxley

# g_Na, g_K, g_M, C, E_leak, E_Na, E_K: silent, one spike, regular spiking, fast strong spikes
SILENT = (3.0, 3.0, 0.3, 1.0, -70.0, 50.0, -100.0)
SPIKING = (50.0, 5.0, 0.07, 1.0, -70.0, 50.0, -95.0)
STRONG = (95.0, 4.0, 0.01, 0.9, -55.0, 78.0, -118.0)


@pytest.fixture(scope="module")
def task():
    """A quicker task for what has nothing to do with accuracy."""
    return HodgkinHuxley(tolerance=1e-4)


def e(z):
    return 1 - z / 2 if abs(z) < 1e-4 else z / np.expm1(z)


def rates(voltage):
    """Opening and closing rates of m, n, h, p, as the literature writes them."""
    v, slow = voltage + 60, voltage + 35
    steady = 1 / (1 + np.exp(-0.1 * slow))
    tau = 600 / (3.3 * np.exp(0.05 * slow) + np.exp(-0.05 * slow))
    opening = [
        0.32 * e(-0.25 * (v - 13)) / 0.25,
        0.032 * e(-0.2 * (v - 15)) / 0.2,
        0.128 * np.exp(-(v - 17) / 18),
        steady / tau,
    ]
    closing = [
        0.28 * e(0.2 * (v - 40)) / 0.2,
        0.5 * np.exp(-(v - 10) / 40),
        4 / (1 + np.exp(-0.2 * (v - 40))),
        (1 - steady) / tau,
    ]
    return np.array(opening), np.array(closing)


def scipy_voltage(parameters, times, divide=True):
    """Solve with scipy to about ten digits, stopping where the current jumps."""
    g_na, g_k, g_m, capacitance, e_leak, e_na, e_k = parameters
    gain = 1 / capacitance if divide else capacitance
    opening, closing = rates(-70.0)
    state, voltage = np.concatenate([[-70.0], opening / (opening + closing)]), []

    def derivative(_, y, current):
        v, m, n, h, p = y
        a, b = rates(v)
        total = g_na * m**3 * h * (e_na - v) + (g_k * n**4 + g_m * p) * (e_k - v)
        total += 0.1 * (e_leak - v) + current
        return np.concatenate([[gain * total], a - (a + b) * y[1:]])

    for start, end, current in ((0, 10, 0.0), (10, 50, STEP_CURRENT), (50, 60, 0.0)):
        inside = times[(times >= start) & (times < end) | ((times == 60) & (end == 60))]
        solution = solve_ivp(
            derivative,
            (start, end),
            state,
            t_eval=np.append(inside, end) if end < 60 else inside,
            args=(current,),
            rtol=1e-10,
            atol=1e-12,
            method="LSODA",
        )
        state = solution.y[:, -1]
        voltage.append(solution.y[0, : len(inside)])
    return np.concatenate(voltage)


def spikes(voltage):
    above = voltage > 0
    return int((above[..., 1:] & ~above[..., :-1]).sum())


@pytest.mark.parametrize(
    ("parameters", "divide"),
    [(SILENT, True), (SPIKING, True), (STRONG, True), (STRONG, False)],
)
def test_voltage_spike_count_and_peak_are_those_of_scipy(parameters, divide):
    task = HodgkinHuxley(divide_by_capacitance=divide)
    times = np.linspace(0, 60, 601)
    reference = scipy_voltage(parameters, times, divide)
    voltage = task.solution(torch.tensor(parameters), 601).numpy()
    assert np.abs(voltage - reference).max() < 2e-3
    assert spikes(voltage) == spikes(reference)
    assert voltage.max() == pytest.approx(reference.max(), abs=0.01)
    coarse = task.solution(torch.tensor(parameters), 201).numpy()
    assert np.abs(coarse - reference[::3]).max() < 2e-3


def test_known_neurons_behave_as_known(task):
    voltage = task.solution(torch.tensor([SILENT, SPIKING, STRONG]), 601)
    counts = [spikes(trace) for trace in voltage]
    assert counts[0] == 0
    assert 2 <= counts[1] <= 10
    assert counts[2] > counts[1] or voltage[2].max() > voltage[1].max()
    assert (voltage > -125).all()
    assert (voltage < 80).all()


def test_two_parameter_version_follows_scipy():
    task = HodgkinHuxley.two_parameters()
    theta = torch.tensor([[40.0, 8.0], [90.0, 70.0]])
    for row, voltage in zip(theta, task.solution(theta), strict=True):
        parameters = (*row.tolist(), 0.3, 1.0, -70.0, 53.0, -107.0)
        reference = scipy_voltage(parameters, np.linspace(0, 60, 500))
        assert np.abs(voltage.numpy() - reference).max() < 2e-3
    assert task.theta_names == ["g_Na", "g_K"]
    assert task.dim_x == 500
    assert task.prior.support.check(torch.tensor([99.0, 1.0]))


def test_shapes_names_and_finiteness(task):
    theta = task.sample_prior(50, stream(0))
    x = task.simulate(theta, stream(1))
    assert x.shape == (50, 200)
    assert x.dtype == torch.float32
    assert torch.isfinite(x).all()
    assert task.theta_names == list(PAPER_BOUNDS)
    assert len(set(task.x_names)) == task.dim_x == 200
    assert torch.equal(x, task.simulate(theta, stream(1)))
    assert not torch.equal(x, task.simulate(theta, stream(2)))


def test_members_do_not_depend_on_each_other(task):
    theta = task.sample_prior(40, stream(0))
    whole = task.solution(theta)
    assert torch.equal(whole[7], task.solution(theta[7]))
    assert task.solution(theta[:0]).shape == (0, 200)
    assert torch.equal(task.solution(theta.reshape(4, 10, 7)).flatten(0, 1), whole)


def test_noise_and_likelihood_agree(task):
    theta = task.sample_prior(1, stream(0))
    x = task.simulate(theta.expand(200, 7), stream(1)).double()
    residual = x - task.solution(theta[0])
    assert float(residual.std()) == pytest.approx(0.5, rel=0.02)
    assert task.noise_norm == pytest.approx(float(residual.norm(dim=1).mean()), rel=0.02)
    entropy = -task.log_likelihood(theta[0], x).mean()
    expected = 200 * (0.5 + np.log(0.5 * np.sqrt(2 * np.pi)))
    assert float(entropy) == pytest.approx(expected, abs=3)


def test_failure_is_nan_and_impossible(task):
    theta = torch.tensor([SPIKING, SPIKING])
    theta[0, 5] = torch.nan
    x = task.simulate(theta, stream(0))
    assert torch.isnan(x[0]).any()
    assert torch.isfinite(x[1]).all()
    assert task.log_likelihood(theta, x[1]).tolist()[0] == -np.inf


def test_a_neuron_too_fast_to_follow_is_given_up_alone(task):
    theta = torch.tensor([SPIKING, SPIKING, SPIKING])
    theta[1, 3] = 1e-9  # a capacitance that asks for steps of nanoseconds
    voltage = task.solution(theta)
    assert voltage[1, 0] == -70
    assert torch.isnan(voltage[1, 1:]).all()
    assert torch.equal(voltage[[0, 2]], task.solution(theta[[0, 2]]))


def test_smaller_tolerance_smaller_error():
    reference = scipy_voltage(STRONG, np.linspace(0, 60, 200))
    errors = [
        np.abs(HodgkinHuxley(tolerance=t).solution(torch.tensor(STRONG)).numpy() - reference).max()
        for t in (1e-5, 1e-6)
    ]
    assert 1e-3 < errors[1] < errors[0] / 4


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"bounds": {"g_Na": (0.0, 1.0)}}, "bounds"),
        ({"bounds": PAPER_BOUNDS | {"C": (1.2, 0.9)}}, "C"),
        ({"bounds": PAPER_BOUNDS | {"C": (0.9, 1.0, 1.2)}}, "C"),
        ({"fixed": {"C": 1.0}}, "fixed"),
        ({"num_points": 1}, "num_points"),
        ({"onset": 55.0}, "onset"),
        ({"noise_std": 0.0}, "noise_std"),
        ({"g_leak": -0.1}, "g_leak"),
        ({"tolerance": 0.0}, "tolerance"),
    ],
)
def test_bad_settings_are_named(setting, name):
    with pytest.raises(ValueError, match=name):
        HodgkinHuxley(**setting)


def test_a_gradient_is_refused_instead_of_being_lost(task):
    with pytest.raises(ValueError, match="cannot give"):
        task.solution(torch.tensor(SPIKING, requires_grad=True))


def test_plot_has_units(task, axes):
    task.plot(axes, task.simulate(task.sample_prior(5, stream(0)), stream(1)))
    assert "mV" in axes.get_ylabel()
    assert "ms" in axes.get_xlabel()
