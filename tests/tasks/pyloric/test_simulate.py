from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from robust_npe.tasks import pyloric
from robust_npe.tasks.pyloric.noise import philox


def prior(size: int, seed: int = 0) -> np.ndarray:
    low, high = np.array(pyloric.PRIOR_LOW), np.array(pyloric.PRIOR_HIGH)
    return low + (high - low) * np.random.default_rng(seed).random((size, 31))


def count_spikes(voltage: np.ndarray) -> np.ndarray:
    """Number of local maxima above -10 mV of (B, 3, n) traces."""
    v = voltage
    peak = (v[..., 1:-1] > -10) & (v[..., 1:-1] >= v[..., :-2]) & (v[..., 1:-1] > v[..., 2:])
    return np.asarray(peak.sum(-1))


def test_parameters() -> None:
    assert len(pyloric.PARAMETER_NAMES) == len(pyloric.PRIOR_LOW) == len(pyloric.PRIOR_HIGH) == 31
    assert pyloric.PARAMETER_NAMES[12] == "LP KCa"
    assert pyloric.PARAMETER_NAMES[24] == "AB-LP"
    assert np.all(np.array(pyloric.PRIOR_LOW) < np.array(pyloric.PRIOR_HIGH))


def test_exact_traces_match_reference(reference: dict[str, np.ndarray]) -> None:
    run = pyloric.simulate_exact(reference["theta"], every=1)
    error = np.abs(run.voltage[..., ::100] - reference["voltage"])
    assert error[..., :200].max() <= 1e-4  # mV, first 500 ms
    assert error.max() <= 0.1
    assert np.array_equal(count_spikes(run.voltage), reference["spike_counts"])


def test_float32_traces_match_reference(reference: dict[str, np.ndarray]) -> None:
    run = pyloric.simulate(reference["theta"], seed=0, noise_std=0.0, every=1)
    error = np.abs(run.voltage[..., ::100] - reference["voltage"])
    assert error[..., :40].max() <= 5e-3  # mV, first 100 ms
    assert np.abs(count_spikes(run.voltage) - reference["spike_counts"]).max() <= 1


def test_float32_follows_exact_mode_with_its_noise() -> None:
    theta, steps = prior(20), 4000
    noise = np.stack([1e-3 * pyloric.normals(5, 100 + i, steps) for i in range(20)])
    exact = pyloric.simulate_exact(theta, noise, t_max=100.0, every=10).voltage
    fast = pyloric.simulate(theta, 5, first_index=100, t_max=100.0, every=10).voltage
    error = np.abs(fast - exact).max(axis=(1, 2))
    assert np.median(error) < 2e-3
    assert np.quantile(error, 0.75) < 0.05  # a spike that comes early makes a large difference


@pytest.mark.parametrize("temperature", [283.0, 290.0])
def test_temperature_agrees_between_modes(temperature: float) -> None:
    theta, q10 = prior(4, 1), pyloric.Q10(Na=1.2, tau_h=2.0, Chol=1.9)
    settings = {"t_max": 50.0, "temperature": temperature, "q10": q10}
    exact = pyloric.simulate_exact(theta, **settings).voltage
    fast = pyloric.simulate(theta, 0, noise_std=0.0, **settings).voltage
    assert np.abs(fast - exact).max() < 5e-3


def test_result_is_independent_of_split_and_threads() -> None:
    theta = prior(37)
    settings = {"t_max": 60.0, "every": 10}
    whole = pyloric.simulate(theta, 3, first_index=2, num_threads=2, **settings)
    parts = [
        pyloric.simulate(theta[i:j], 3, first_index=2 + i, num_threads=1, **settings)
        for i, j in [(0, 5), (5, 30), (30, 37)]
    ]
    assert np.array_equal(whole.voltage, np.concatenate([part.voltage for part in parts]))
    assert np.array_equal(whole.spiking, np.concatenate([part.spiking for part in parts]))
    other = pyloric.simulate(theta, 4, first_index=2, **settings)
    assert not np.array_equal(whole.voltage, other.voltage)


def test_filter_counts_samples_above_20_mv() -> None:
    theta = prior(32, 2)
    run = pyloric.simulate(theta, 1, t_max=400.0, every=10)
    assert np.array_equal(run.spiking, (run.voltage > 20.0).sum(-1))
    assert np.array_equal(run.valid, (run.spiking > 5).all(1))
    coarse = pyloric.simulate(theta, 1, t_max=400.0, every=100)
    assert np.array_equal(run.spiking, coarse.spiking)
    assert np.array_equal(coarse.voltage, run.voltage[..., ::10])


def test_impossible_parameters_give_nan() -> None:
    theta = prior(4)
    theta[1, 3], theta[2, 30] = -1.0, np.nan
    run = pyloric.simulate(theta, 0, t_max=5.0)
    assert np.isnan(run.voltage).all((1, 2)).tolist() == [False, True, True, False]
    assert not run.valid[1:3].any()
    clean = pyloric.simulate(prior(4), 0, t_max=5.0)
    assert np.array_equal(run.voltage[[0, 3]], clean.voltage[[0, 3]])


def test_shapes_and_start() -> None:
    run = pyloric.simulate(prior(2), 0, t_max=100.0, every=30)
    assert run.voltage.shape == (2, 3, 134)
    assert run.voltage.dtype == np.float32
    assert np.all(run.voltage[..., 0] == -50.0)
    assert pyloric.simulate(np.empty((0, 31)), 0, t_max=5.0).voltage.shape == (0, 3, 2)


def test_no_conductance_leaves_a_random_walk() -> None:
    theta = np.zeros((1, 31))
    theta[:, 24:] = -1e4  # exp(theta) is zero
    noise = 1e-3 * pyloric.normals(0, 0, 200)
    walk = -50.0 + np.cumsum(0.025 / 0.6283e-3 * noise[:, 1:], axis=1)
    exact = pyloric.simulate_exact(theta, noise[None], t_max=5.0, every=1).voltage[0, :, 1:]
    fast = pyloric.simulate(theta, 0, t_max=5.0, every=1).voltage[0, :, 1:]
    assert np.allclose(exact, walk, atol=1e-6)
    assert np.allclose(fast, walk, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dt": 0.0}, "dt must be positive"),
        ({"t_max": 0.0}, "t_max must be"),
        ({"every": 0}, "every must be"),
        ({"noise_std": -1.0}, "noise_std must be"),
        ({"seed": -1}, "seed must lie"),
        ({"num_threads": 0}, "num_threads must be"),
        ({"dt": 1.0}, "smaller dt"),
        ({"theta": np.zeros((2, 30))}, "theta must have shape"),
        ({"temperature": -1.0}, "temperature must be"),
    ],
)
def test_wrong_arguments(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pyloric.simulate(**({"theta": prior(1), "seed": 0, "t_max": 5.0} | change))


def test_wrong_noise_shape() -> None:
    with pytest.raises(ValueError, match="noise must have shape"):
        pyloric.simulate_exact(prior(2), np.zeros((2, 3, 7)), t_max=5.0)


def test_power_is_dissipation() -> None:
    run = pyloric.simulate_exact(prior(2), t_max=20.0, every=1, power=True)
    assert run.power.shape == (2, 3, 2, 800)
    assert np.all(run.power >= 0)
    assert run.power[:, :, 0, 400:].min() > 0


def test_philox_known_answers() -> None:
    """The test vectors published with the generator (counter and key of zeros, of ones)."""
    zero, ones = np.uint64(0), np.uint64(2**64 - 1)
    with np.errstate(over="ignore"):
        words = philox.py_func(zero, zero, zero)
    assert [int(w) for w in words] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert len({int(w) for w in philox.py_func(ones, zero, zero)} & {int(w) for w in words}) == 0


def test_normals_are_standard_normal() -> None:
    from scipy import stats

    a, b = pyloric.normals(1, 0, 100_000), pyloric.normals(1, 1, 100_000)
    assert a.shape == (3, 100_000)
    assert stats.kstest(np.concatenate([a, b]).ravel(), "norm").pvalue > 1e-3
    assert abs(stats.kurtosis(a.ravel())) < 0.05
    assert np.abs(np.corrcoef(np.concatenate([a, b])) - np.eye(6)).max() < 0.015
    assert np.abs(np.corrcoef(a[:, 1:].ravel(), a[:, :-1].ravel())[0, 1]) < 0.01


def test_acceptance_rate_of_the_filter() -> None:
    """About 9.8 % of the prior pass the filter: known from 4096 runs of the public simulator."""
    theta = prior(256, 7)
    share = pyloric.simulate(theta, 0).valid.mean()
    assert 0.04 < share < 0.17


def test_import_needs_numba_only_for_the_package_and_compiles_nothing() -> None:
    code = (
        "import sys, robust_npe, robust_npe.tasks.base\n"
        "assert 'numba' not in sys.modules\n"
        "from robust_npe.tasks import pyloric\n"
        "from robust_npe.tasks.pyloric import lanes, exact\n"
        "assert not lanes.run_lanes.signatures and not exact.run_exact.signatures\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
