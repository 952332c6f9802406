from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.signal import savgol_filter

from robust_npe.tasks import pyloric
from robust_npe.tasks.pyloric.bursts import smooth, smoothing_matrix
from tests.tasks.pyloric.slow_statistics import DT, slow_statistics


def bursting(starts: list[list[float]], duration: float = 4000.0) -> np.ndarray:
    """Traces (3, n) with bursts of five spikes, 20 ms apart, from the times given (ms)."""
    time = np.arange(0, duration, DT)
    voltage = np.full((3, len(time)), -60.0)
    for cell, cell_starts in enumerate(starts):
        for start in cell_starts:
            for spike in start + 20.0 * np.arange(5):
                voltage[cell] += 90.0 * np.exp(-0.5 * ((time - spike) / 1.0) ** 2)
    return voltage


RHYTHM = [[200.0 + 900 * i for i in range(4)], [500.0 + 900 * i for i in range(4)]]
RHYTHM.append([700.0 + 900 * i for i in range(4)])


def test_known_rhythm() -> None:
    summary = pyloric.summarize(bursting(RHYTHM)[None], burn_in=0.0)
    values = dict(zip(pyloric.STATISTICS, summary.statistics[0], strict=True))
    assert values["cycle_period"] == pytest.approx(900)
    assert values["burst_duration LP"] == pytest.approx(80)
    assert values["duty_cycle PY"] == pytest.approx(80 / 900)
    assert values["start_phase LP"] == pytest.approx(300 / 900)
    assert values["start_to_start LP-PY"] == pytest.approx(200)
    assert values["end_to_start AB/PD-LP"] == pytest.approx(220)
    assert values["phase_gap LP-PY"] == pytest.approx(120 / 900)
    optional = dict(zip(pyloric.OPTIONAL_STATISTICS, summary.optional[0], strict=True))
    assert optional["num_spikes AB/PD"] == 20
    assert optional["num_bursts PY"] == 4
    assert summary.valid.all()
    assert summary.pyloric_like.all()


def test_wrong_order_is_not_pyloric_like() -> None:
    ab, lp, py = RHYTHM
    summary = pyloric.summarize(bursting([ab, py, lp])[None], burn_in=0.0)
    assert summary.valid.all()
    assert not summary.pyloric_like.any()


def test_silent_cell_leaves_what_is_defined() -> None:
    summary = pyloric.summarize(bursting([RHYTHM[0], [], RHYTHM[2]])[None], burn_in=0.0)
    defined = np.isfinite(summary.statistics[0])
    assert np.flatnonzero(defined).tolist() == [0, 1, 3, 4, 6]
    assert not summary.valid.any()
    assert not summary.pyloric_like.any()


def test_smoothing_is_savitzky_golay() -> None:
    v = np.random.default_rng(0).normal(size=5000)
    out = np.empty_like(v)
    smooth(v, smoothing_matrix(DT), out)
    assert np.abs(out - savgol_filter(v, 21, 3)).max() < 1e-12


def agree(traces: np.ndarray, burn_in: float) -> None:
    summary = pyloric.summarize(traces, burn_in=burn_in)
    for i, trace in enumerate(traces):
        expected, optional, like = slow_statistics(trace[:, round(burn_in / DT) :])
        np.testing.assert_allclose(summary.statistics[i], expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose(summary.optional[i], optional, rtol=1e-9, atol=1e-9)
        assert summary.pyloric_like[i] == like


def test_agrees_with_slow_statistics(reference: dict[str, np.ndarray]) -> None:
    finite = np.isfinite(reference["stats"][:, :15]).all(1)
    theta = np.concatenate([reference["stats_theta"][finite][:4], reference["theta"][:4]])
    agree(pyloric.simulate(theta, 1, t_max=4000.0, every=1).voltage, burn_in=1000.0)


def test_agrees_on_random_rhythms() -> None:
    rng = np.random.default_rng(1)
    starts = [[np.sort(rng.uniform(0, 3800, 6)) for _ in range(3)] for _ in range(4)]
    jittered = [[[t + rng.normal(0, 30) for t in cell] for cell in RHYTHM] for _ in range(4)]
    agree(np.stack([bursting(s) for s in starts + jittered]), burn_in=0.0)


@pytest.mark.slow
def test_agrees_on_all_reference_parameters(reference: dict[str, np.ndarray]) -> None:
    traces = pyloric.simulate(reference["stats_theta"], 2, t_max=11000.0, every=1).voltage
    agree(traces, burn_in=1000.0)


@pytest.mark.slow
def test_distribution_agrees_with_reference(reference: dict[str, np.ndarray]) -> None:
    """The reference's value is one more draw from the distribution of float32 runs.

    So its rank among them is uniform, and the number of valid runs is as expected.
    """
    repeats, theta, expected = 40, reference["stats_theta"], reference["stats"][:, :15]
    draws = []
    for seed in range(repeats):
        traces = pyloric.simulate(theta, seed, t_max=11000.0, every=1).voltage
        draws.append(pyloric.summarize(traces).statistics)
    runs = np.stack(draws)  # (repeats, 40, 15)
    missing = np.isnan(runs).mean(0)
    expected_missing = missing.sum(0)
    spread = np.sqrt((missing * (1 - missing)).sum(0)) + 0.5
    assert np.all(np.abs(np.isnan(expected).sum(0) - expected_missing) < 4 * spread)
    rng = np.random.default_rng(0)
    for k in range(4):  # cycle period, burst durations
        ranks = []
        for i in np.flatnonzero(np.isfinite(expected[:, k])):
            values = runs[:, i, k][np.isfinite(runs[:, i, k])]
            if len(values) >= 10:
                below, equal = (values < expected[i, k]).sum(), (values == expected[i, k]).sum()
                ranks.append((below + rng.random() * (equal + 1)) / (len(values) + 1))
        assert len(ranks) >= 10
        assert stats.kstest(ranks, "uniform").pvalue > 0.01, pyloric.STATISTICS[k]


def test_spikes_and_energies() -> None:
    trace = bursting(RHYTHM)[0]
    times, heights = pyloric.spikes(trace)
    assert np.allclose(times[:3], [200, 220, 240], atol=2 * DT)
    assert np.allclose(heights, 30.0, atol=0.1)
    total, per_burst, per_spike = pyloric.energies(trace, np.ones_like(trace))
    unit = DT / 0.628e-3 / 1000
    assert total == pytest.approx(len(trace) * unit)
    assert per_burst == pytest.approx(np.full(4, (80 + 14) / DT * unit))
    assert per_spike == pytest.approx(per_burst / 5)  # at 0, 20, 40, 60 and 80 ms


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"voltage": np.zeros((3, 100))}, "shape"),
        ({"dt": 0.5}, "dt <= 0.125"),
        ({"burn_in": 1e4}, "too short"),
    ],
)
def test_wrong_arguments(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pyloric.summarize(**({"voltage": np.zeros((1, 3, 1000)), "burn_in": 0.0} | change))
