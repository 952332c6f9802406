"""Speed of every simulator, and speed and accuracy of the solvers against torchdiffeq and scipy.

    pip install torchdiffeq    (optional: without it there is no comparison)
    python benchmarks/simulators.py

One thread. Times are CPU seconds of whole batches, medians of the repeats; the solvers alternate,
so that a change of the machine's speed meets both. Errors of Lotka-Volterra and SIR are largest
absolute differences from scipy (DOP853 at rtol 1e-12) on part of the batch. Errors of the
Hodgkin-Huxley neuron are differences, in mV, from the project's own solver at a tolerance of 1e-11
on the whole batch, which is itself compared with scipy (LSODA at rtol 1e-10) on part of it;
"outside" leaves out observations within 0.1 ms of a moment at which the voltage is above -20 mV.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from robust_npe.random import stream
from robust_npe.tasks import (
    SBIBM,
    SIR,
    VAE,
    GaussianLinear,
    HodgkinHuxley,
    LotkaVolterra,
    SpatialSIR,
    Task,
    Toy,
)
from robust_npe.tasks.hodgkin_huxley import STEP_CURRENT
from robust_npe.tasks.sbibm import SBIBM_TASKS

PARTIAL = 100  # members compared with scipy


def measure(jobs: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, tuple[float, Tensor]]:
    """Median CPU seconds and result of each job; the jobs alternate."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    results = {}
    for _ in range(repeats):
        for name, job in jobs.items():
            start = time.process_time()
            results[name] = job()
            times[name].append(time.process_time() - start)
    return {name: (statistics.median(times[name]), results[name]) for name in jobs}


def rates(batch: int, repeats: int) -> None:
    """Print simulations per second of every task."""
    tasks: list[tuple[str, Task]] = [
        ("gaussian_linear", GaussianLinear()),
        ("lotka_volterra", LotkaVolterra()),
        ("sir", SIR()),
        ("spatial_sir", SpatialSIR()),
        ("hodgkin_huxley", HodgkinHuxley()),
        ("hodgkin_huxley, two parameters", HodgkinHuxley.two_parameters()),
        ("vae", VAE()),
        ("toy", Toy()),
    ]
    if importlib.util.find_spec("sbibm"):
        tasks += [(f"sbibm/{name}", SBIBM(name)) for name in SBIBM_TASKS]
    print("| task | simulations per second |\n|---|---|")
    for name, task in tasks:
        theta = task.sample_prior(batch, stream(0, "theta"))
        job = {name: lambda task=task, theta=theta: task.simulate(theta, stream(0, "x"))}
        (seconds, _) = measure(job, repeats)[name]
        print(f"| {name} | {batch / max(seconds, 1e-4):,.0f} |", flush=True)


def lotka_volterra(rates: Tensor) -> Callable[[Tensor], Tensor]:
    """Plain right-hand side for rates `(4, B)`."""
    a, b, c, d = rates

    def slopes(y: Tensor) -> Tensor:
        product = y[0] * y[1]
        return torch.stack((a * y[0] - b * product, d * product - c * y[1]))

    return slopes


def sir(rates: Tensor) -> Callable[[Tensor], Tensor]:
    """Plain right-hand side for rates `(2, B)`."""

    def slopes(y: Tensor) -> Tensor:
        new = rates[0] * y[0] * y[1] / 5
        return torch.stack((-new, new - rates[1] * y[1]))

    return slopes


def gate_rates(voltage: Tensor) -> tuple[Tensor, Tensor]:
    """Opening rates and sums of opening and closing rates of m, n, h, p."""

    def e(z: Tensor) -> Tensor:
        return torch.where(z.abs() < 1e-4, 1 - z / 2, z / (torch.exp(z) - 1))

    v, slow = voltage + 60, voltage + 35
    steady = 1 / (1 + torch.exp(-0.1 * slow))
    tau = 600 / (3.3 * torch.exp(0.05 * slow) + torch.exp(-0.05 * slow))
    m, n = 1.28 * e(-0.25 * (v - 13)), 0.16 * e(-0.2 * (v - 15))
    h, p = 0.128 * torch.exp(-(v - 17) / 18), steady / tau
    m_close, n_close = 1.4 * e(0.2 * (v - 40)), 0.5 * torch.exp(-(v - 10) / 40)
    h_close = 4 / (1 + torch.exp(-0.2 * (v - 40)))
    return torch.stack((m, n, h, p)), torch.stack((m + m_close, n + n_close, h + h_close, 1 / tau))


def neuron(parameters: Tensor) -> Callable[[float, Tensor], Tensor]:
    """Plain right-hand side for parameters `(7, B)`."""
    g_na, g_k, g_m, capacitance, e_leak, e_na, e_k = parameters

    def slopes(t: float, y: Tensor) -> Tensor:
        v, m, n, h, p = y
        opening, total = gate_rates(v)
        current = g_na * m**3 * h * (e_na - v) + (g_k * n**4 + g_m * p) * (e_k - v)
        current = current + 0.1 * (e_leak - v) + (STEP_CURRENT if 10 < t < 50 else 0.0)
        return torch.cat(((current / capacitance)[None], opening - total * y[1:]))

    return slopes


def smooth(task: LotkaVolterra | SIR, batch: int, repeats: int) -> None:
    """Compare on Lotka-Volterra or SIR with dopri5 at rtol = atol = 1e-6."""
    theta = task.sample_prior(batch, stream(0, "theta"))
    squashed = torch.sigmoid(theta.double()).T
    is_sir = isinstance(task, SIR)
    values = squashed if is_sir else squashed.exp()
    slopes = (sir if is_sir else lotka_volterra)(values)
    initial = task.initial[:, None].repeat(1, batch)
    jobs = {"robust-npe": lambda: task.solution(theta)}
    if importlib.util.find_spec("torchdiffeq"):
        from torchdiffeq import odeint

        def dopri5() -> Tensor:
            options = {"method": "dopri5", "rtol": 1e-6, "atol": 1e-6}
            path = odeint(lambda _, y: slopes(y), initial, task.times, **options).permute(2, 1, 0)
            return path[:, 1] if is_sir else path.flatten(1)

        jobs["torchdiffeq dopri5, 1e-6"] = dopri5
    make, start = (sir if is_sir else lotka_volterra), task.initial.numpy()
    exact = []
    for row in values.T[:PARTIAL]:
        single = make(row[:, None])
        path = solve_ivp(
            lambda _, y, f=single: f(torch.from_numpy(y)[:, None])[:, 0].numpy(),
            (0, float(task.times[-1])),
            start,
            t_eval=task.times.numpy(),
            rtol=1e-12,
            atol=1e-13,
            method="DOP853",
        ).y
        exact.append(path[1] if is_sir else path.ravel())
    for name, (seconds, result) in measure(jobs, repeats).items():
        error = (result[:PARTIAL] - torch.from_numpy(np.array(exact))).abs().max()
        print(f"| {task.name} | {name} | {seconds:.3f} s | {float(error):.1e} | |", flush=True)


def scipy_neuron(parameters: Tensor, times: np.ndarray) -> np.ndarray:
    """Voltage of one neuron by LSODA, restarted where the current jumps."""
    slopes = neuron(parameters[:, None])
    state = np.full(5, -70.0)
    opening, total = gate_rates(torch.tensor([-70.0], dtype=torch.float64))
    state[1:] = (opening / total)[:, 0].numpy()
    pieces = []
    for start, end in ((0.0, 10.0), (10.0, 50.0), (50.0, 60.0)):
        inside = times[(times >= start) & ((times < end) | (end == 60.0))]
        middle = (start + end) / 2  # decides the current
        path = solve_ivp(
            lambda _, y, t=middle: slopes(t, torch.from_numpy(y)[:, None])[:, 0].numpy(),
            (start, end),
            state,
            t_eval=np.union1d(inside, [end]),
            rtol=1e-10,
            atol=1e-11,
            method="LSODA",
        ).y
        state = path[:, -1]
        pieces.append(path[0, : len(inside)])
    return np.concatenate(pieces)


def near_spikes(task: HodgkinHuxley, theta: Tensor) -> Tensor:
    """Observations within 0.1 ms of a moment at which the voltage is above -20 mV."""
    dense = task.solution(theta, 1201) > -20
    wide = torch.nn.functional.max_pool1d(dense.float()[:, None], 5, 1, 2)[:, 0] > 0
    return wide[:, (task.times * 20).round().long()]


def count_spikes(voltage: Tensor) -> Tensor:
    """Upward crossings of -20 mV."""
    above = voltage > -20
    return (above[:, 1:] & ~above[:, :-1]).sum(1)


def spiking(batch: int, repeats: int) -> None:
    """Compare on the Hodgkin-Huxley neuron with bosh3 at atol 1e-4, rtol 1e-3."""
    task, tight = HodgkinHuxley(), HodgkinHuxley(tolerance=1e-11)
    theta = task.sample_prior(batch, stream(0, "theta"))
    exact = tight.solution(theta)
    outside = ~near_spikes(task, theta)
    jobs = {"robust-npe": lambda: task.solution(theta)}
    if importlib.util.find_spec("torchdiffeq"):
        from torchdiffeq import odeint

        slopes = neuron(theta.double().T)
        start = torch.full((5, batch), -70.0, dtype=torch.float64)
        opening, total = gate_rates(start[0])
        start[1:] = opening / total
        options = {"method": "bosh3", "atol": 1e-4, "rtol": 1e-3}
        jobs["torchdiffeq bosh3, 1e-4, 1e-3"] = lambda: (
            odeint(lambda t, y: slopes(float(t), y), start, task.times, **options)[:, 0].T
        )
    for name, (seconds, result) in measure(jobs, repeats).items():
        error = (result - exact).abs()
        wrong = int((count_spikes(result) != count_spikes(exact)).sum())
        note = f"outside {float(error[outside].max()):.2g}; {wrong} wrong spike counts"
        large = int((error.amax(1) > 0.5).sum())
        note += f"; {large} of {batch} traces with an error above 0.5 mV anywhere"
        print(f"| hodgkin_huxley | {name} | {seconds:.2f} s | {float(error.max()):.2g} | {note} |")
    part = min(batch, PARTIAL // 10)
    reference = [scipy_neuron(row.double(), task.times.numpy()) for row in theta[:part]]
    gap = np.abs(np.array(reference) - exact[:part].numpy()).max()
    print(f"\nTight solution against scipy, {part} neurons: {gap:.1e} mV at most.")


def main() -> None:
    """Read the options, measure, print tables."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--batch", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rates(options.batch, options.repeats)
    print("\n| task | solver | CPU time | largest error | |\n|---|---|---|---|---|")
    smooth(LotkaVolterra(), options.batch, options.repeats)
    smooth(SIR(), options.batch, options.repeats)
    spiking(options.batch, options.repeats)


if __name__ == "__main__":
    main()
