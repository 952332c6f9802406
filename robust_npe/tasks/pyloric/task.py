"""The pyloric network as a task: 31 conductances from three voltage traces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor
from torch.distributions import Independent, Uniform

from robust_npe.checks import require, require_not_negative, require_positive_integer
from robust_npe.tasks.base import Task
from robust_npe.tasks.plots import draw_trace
from robust_npe.tasks.pyloric.constants import CELLS, PARAMETER_NAMES, PRIOR_HIGH, PRIOR_LOW
from robust_npe.tasks.pyloric.simulate import simulate
from robust_npe.tasks.pyloric.summary import STATISTICS, summarize

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Pyloric"]

FEATURES = ("traces", "statistics")
DURATION = {"traces": 2000.0, "statistics": 11_000.0}  # ms
BURN_IN = 1000.0  # ms, not used by the statistics
FULL_RATE_BLOCK = 32  # simulations at once if every time step is kept: 170 MB for 11 s
LOWEST, HIGHEST = -100.0, 70.0  # mV; among 4096 draws of the prior: -85.5 to 50
SPACING = 170.0  # mV between the traces of a plot


class Pyloric(Task):
    """Conductances of the crab's pyloric network; x are the voltages of its three cells.

    theta: 24 membrane conductances (8 per cell, mS/cm^2) and the logarithms of 7 synaptic ones
    (mS), uniform in a box. x: the traces of AB/PD, LP and PY one after the other, 800 samples each
    (2 s, every 2.5 ms, mV); the first sample is the start value. Or 15 statistics of the rhythm.

    **Sets of pairs are filtered.** Most of the prior gives networks in which some cell never
    spikes. `simulate` returns all of them, but `simulate_and_filter` accepts (of traces) those in
    which every cell has more than 5 samples above +20 mV on a grid of 0.25 ms, or (of statistics)
    those for which all are defined. So theta of a simulation set follows the *restricted* prior
    p(theta | accepted) with about a tenth (of traces) of the prior's mass in the same box; `prior`
    is the whole box. What is learned is p(theta | x, accepted). It is p(theta | x) wherever x
    tells whether the filter accepts; x holds a tenth of the samples that the filter sees.

    Source: Gloeckler, Deistler & Macke (2023), "Adversarial robustness of amortized Bayesian
    inference", https://arxiv.org/abs/2305.14984; the model is that of Prinz, Bucher & Marder
    (2004), "Similar network activity from disparate circuit parameters".

    Args:
        features: `traces` or `statistics`.
        duration: Simulated time in ms; None for 2000 (traces) or 11000 (statistics, of which the
            first 1000 are left out).
        every: Distance of the samples of a trace, in steps of 0.025 ms.
        noise_std: Standard deviation of the current injected at every step, uA.
        temperature: Temperature in K.

    Raises:
        ConfigError: A setting is out of range.
    """

    name = "pyloric"

    def __init__(
        self,
        features: Literal["traces", "statistics"] = "traces",
        duration: float | None = None,
        every: int = 100,
        noise_std: float = 0.001,
        temperature: float = 283.0,
    ) -> None:
        require(features in FEATURES, "task.features", features, "traces or statistics")
        require_positive_integer("task.every", every)
        require_not_negative("task.noise_std", noise_std)
        require(280 <= temperature <= 300, "task.temperature", temperature, "in [280, 300] K")
        self.traces = features == "traces"
        self.duration = float(DURATION[features] if duration is None else duration)
        shortest = 0.025 * every if self.traces else BURN_IN + 100
        require(self.duration >= shortest, "task.duration", duration, f"at least {shortest} ms")
        self.every = every if self.traces else 1
        self.noise_std, self.temperature = float(noise_std), float(temperature)
        samples = -(-round(self.duration / 0.025) // every)
        self.times = torch.arange(samples, dtype=torch.float64) * every * 0.025
        self.dim_x = len(CELLS) * samples if self.traces else len(STATISTICS)
        self.embedding = "pyloric_cnn" if self.traces else "identity"
        self.prior = Independent(Uniform(torch.tensor(PRIOR_LOW), torch.tensor(PRIOR_HIGH)), 1)

    @property
    def theta_names(self) -> list[str]:
        """Cell and current, or the two cells of a synapse."""
        return list(PARAMETER_NAMES)

    @property
    def x_names(self) -> list[str]:
        """Cell and time, or names of the statistics."""
        if not self.traces:
            return list(STATISTICS)
        return [f"{cell} {time:g} ms" for cell in CELLS for time in self.times.tolist()]

    @property
    def domain(self) -> tuple[Tensor, Tensor] | None:
        """Voltages stay near the reversal potentials, between -100 and 70 mV."""
        if not self.traces:
            return None
        return torch.full((self.dim_x,), LOWEST), torch.full((self.dim_x,), HIGHEST)

    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        """See `Task.simulate`; runs on all cores. Statistics that are not defined are NaN."""
        return self.simulate_and_filter(theta, generator)[0]

    def simulate_and_filter(self, theta: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """See `Task.simulate_and_filter`; the noise depends on one number of `generator`."""
        seed = int(torch.randint(2**62, (), generator=generator))
        parameters = theta.detach().cpu().double().numpy()
        run = self._traces if self.traces else self._statistics
        x, accepted = run(parameters, seed)
        return torch.from_numpy(x), torch.from_numpy(accepted)

    def _traces(self, theta: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        result = simulate(theta, seed, every=self.every, **self._settings)
        return result.voltage.reshape(len(theta), self.dim_x), result.valid

    def _statistics(self, theta: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        x = np.empty((len(theta), self.dim_x), np.float32)
        for start in range(0, len(theta), FULL_RATE_BLOCK):
            block = slice(start, start + FULL_RATE_BLOCK)
            run = simulate(theta[block], seed, first_index=start, every=1, **self._settings)
            x[block] = summarize(run.voltage, burn_in=BURN_IN).statistics
        return x, np.asarray(np.isfinite(x).all(axis=1))

    @property
    def _settings(self) -> dict[str, Any]:
        return {
            "t_max": self.duration,
            "noise_std": self.noise_std,
            "temperature": self.temperature,
        }

    def plot(self, axes: Axes, x: Tensor, **style: Any) -> None:
        """Draw the three traces of x `(Dx,)` below each other, or bands of samples `(S, Dx)`."""
        values = torch.as_tensor(x).detach().cpu()
        if not self.traces:
            axes.plot(values.mT if values.ndim > 1 else values, "o", **style)
            axes.set_xticks(range(self.dim_x), self.x_names, rotation=90)
            axes.set_xlabel("statistic (times in ms)")
            return
        offsets = [-SPACING * i for i in range(len(CELLS))]
        for trace, offset in zip(values.chunk(len(CELLS), dim=-1), offsets, strict=True):
            draw_trace(axes, self.times, trace + offset, **{"linewidth": 0.8} | style)
        marks = [(offset + mv, f"{mv}") for offset in offsets for mv in (-50, 0, 50)]
        axes.set_yticks([y for y, _ in marks], [label for _, label in marks])
        for cell, offset in zip(CELLS, offsets, strict=True):
            axes.text(1.01, offset - 20, cell, transform=axes.get_yaxis_transform(), va="center")
        axes.set_xlim(float(self.times[0]), float(self.times[-1]))
        axes.set_xlabel("time (ms)")
        axes.set_ylabel("voltage (mV)")
