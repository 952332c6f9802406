"""Hodgkin-Huxley neuron: the membrane voltage under a current step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Generator, Tensor
from torch.distributions import Independent, Uniform

from robust_npe.checks import require, require_not_negative, require_positive
from robust_npe.tasks.base import Task
from robust_npe.tasks.noise import gaussian_norm, normal_log_prob
from robust_npe.tasks.plots import draw_trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PAPER_BOUNDS", "HodgkinHuxley"]

PARAMETERS = ("g_Na", "g_K", "g_M", "C", "E_leak", "E_Na", "E_K")

PAPER_BOUNDS = {
    "g_Na": (1.0, 100.0),
    "g_K": (1e-4, 5.0),
    "g_M": (1e-4, 0.5),
    "C": (0.9, 1.2),
    "E_leak": (-80.0, -50.0),
    "E_Na": (10.0, 80.0),
    "E_K": (-120.0, -90.0),
}

STEP_CURRENT = 5e-4 / (math.pi * 70e-4**2)


class HodgkinHuxley(Task):
    """Voltage of one compartment with sodium, potassium, M and leak currents, plus noise.

    C dV/dt = g_Na m^3 h (E_Na - V) + (g_K n^4 + g_M p) (E_K - V) + g_leak (E_leak - V) + I(t).
    Conductances are in mS/cm^2, C in uF/cm^2, voltages in mV, times in ms. The neuron starts at
    -70 mV with its gates at rest; the current is on between `onset` and `offset`. The prior is
    uniform on `bounds`; noise N(0, 0.5^2) mV.

    Source: Gloeckler, Deistler & Macke (2023), "Adversarial robustness of amortized Bayesian
    inference", https://arxiv.org/abs/2305.14984; rates after Pospischil et al. (2008), "Minimal
    Hodgkin-Huxley type models for different classes of cortical and thalamic neurons". The
    paper's research code multiplies the sum of currents by C where physics divides:
    `divide_by_capacitance=False` reproduces that.

    Args:
        bounds: Lower and upper end of the prior for each inferred parameter.
        fixed: Values of the other parameters; every one of g_Na, g_K, g_M, C, E_leak, E_Na, E_K
            stands in exactly one of the two.
        num_points: Number of equally spaced observation times including 0.
        duration: Time of the last observation in ms.
        onset: When the current is switched on, in ms.
        offset: When it is switched off, in ms.
        current: Density of the current step in uA/cm^2.
        g_leak: Leak conductance in mS/cm^2.
        noise_std: Standard deviation of the observation noise in mV, positive.
        divide_by_capacitance: Physics; False multiplies by C instead.
        tolerance: Error of a gate in one solver step; that of the voltage is 100 mV times this.
    """

    name = "hodgkin_huxley"
    version: ClassVar[int] = 2
    embedding = "mlp"

    def __init__(
        self,
        bounds: Mapping[str, Sequence[float]] = PAPER_BOUNDS,
        fixed: Mapping[str, float] | None = None,
        num_points: int = 200,
        duration: float = 60.0,
        onset: float = 10.0,
        offset: float = 50.0,
        current: float = STEP_CURRENT,
        g_leak: float = 0.1,
        noise_std: float = 0.5,
        divide_by_capacitance: bool = True,
        tolerance: float = 3e-8,
    ) -> None:
        fixed = dict(fixed or {})
        given = sorted([*bounds, *fixed])
        expected = f"each of {list(PARAMETERS)} once, in one of the two"
        require(given == sorted(PARAMETERS), "task.bounds and task.fixed", given, expected)
        for name, ends in bounds.items():
            ordered = len(ends) == 2 and ends[0] < ends[1]
            require(ordered, f"task.bounds.{name}", ends, "a lower and a higher number")
        require(num_points >= 2, "task.num_points", num_points, "at least 2")
        require(0 < onset < offset < duration, "task.onset", onset, "before offset and duration")
        require_positive("task.noise_std", noise_std)
        require_not_negative("task.g_leak", g_leak)
        require_positive("task.tolerance", tolerance)
        self.free = [name for name in PARAMETERS if name in bounds]
        if len(self.free) < len(PARAMETERS):  # a task of its own in tables and plots
            self.name = f"hodgkin_huxley_{len(self.free)}d"
        self.fixed = {name: float(value) for name, value in fixed.items()}
        low, high = torch.tensor([list(bounds[name]) for name in self.free]).T
        self.prior = Independent(Uniform(low, high), 1)
        self.times = torch.linspace(0, duration, num_points, dtype=torch.float64)
        self.onset, self.offset, self.current = float(onset), float(offset), float(current)
        self.g_leak = float(g_leak)
        self.noise_std = float(noise_std)
        self.divide_by_capacitance = divide_by_capacitance
        self.tolerance = tolerance * torch.tensor([100.0, 1, 1, 1, 1], dtype=torch.float64)
        self.dim_x = num_points

    @classmethod
    def two_parameters(cls, **settings: Any) -> HodgkinHuxley:
        """The version of the paper's first figure: g_Na and g_K in (0, 100), 500 points."""
        bounds = {"g_Na": (0.0, 100.0), "g_K": (0.0, 100.0)}
        fixed = {"g_M": 0.3, "C": 1.0, "E_leak": -70.0, "E_Na": 53.0, "E_K": -107.0}
        preset: dict[str, Any] = {"bounds": bounds, "fixed": fixed, "num_points": 500}
        return cls(**preset | settings)

    @property
    def theta_names(self) -> list[str]:
        """Names of the inferred parameters."""
        return self.free

    @property
    def x_names(self) -> list[str]:
        """Time of each voltage in ms."""
        return [f"V({time:.2f})" for time in self.times]

    @property
    def noise_norm(self) -> float:
        """Expected L2 norm of the observation noise in mV."""
        return gaussian_norm(self.noise_std, self.dim_x)

    def solution(self, theta: Tensor, num_points: int | None = None) -> Tensor:
        """Return the voltage in mV without noise: float64, shape `(*, num_points)`.

        Args:
            theta: Parameters of shape `(*, D)`.
            num_points: Number of equally spaced times, the task's own by default.
        """
        from robust_npe.tasks.membrane import solve_voltage  # imports numba

        num_points = num_points or len(self.times)
        require(num_points >= 2, "num_points", num_points, "at least 2")
        if torch.is_grad_enabled() and theta.requires_grad:
            raise ValueError(
                "theta requires a gradient, which the solver cannot give: call .detach() on it "
                "or simulate under torch.no_grad()."
            )
        duration = float(self.times[-1])
        times = torch.linspace(0, duration, num_points, dtype=torch.float64).numpy()
        stops = np.array([self.onset, self.offset, duration])
        neurons = self._neurons(theta.detach().double())
        voltage = np.full((len(neurons), num_points), np.nan)
        solve_voltage(neurons.numpy(), self.current, stops, times, self.tolerance.numpy(), voltage)
        return torch.from_numpy(voltage).reshape(*theta.shape[:-1], num_points)

    def _neurons(self, theta: Tensor) -> Tensor:
        """Parameters as the kernel takes them: `(N, 8)` for theta `(*, D)` with N members."""
        flat = theta.reshape(-1, len(self.free))
        neurons = flat.new_empty(len(flat), len(PARAMETERS) + 1)
        for column, name in enumerate(PARAMETERS):
            free = name in self.free
            neurons[:, column] = flat[:, self.free.index(name)] if free else self.fixed[name]
        if self.divide_by_capacitance:
            neurons[:, PARAMETERS.index("C")].reciprocal_()
        neurons[:, -1] = self.g_leak
        return neurons

    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        """See `Task.simulate`; a voltage that could not be solved is NaN."""
        voltage = self.solution(theta)
        noise = torch.randn(voltage.shape, generator=generator, dtype=torch.float64)
        return voltage.add_(noise, alpha=self.noise_std).float()

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        """See `Task.log_likelihood`; float64, differentiable in x but not in theta."""
        return normal_log_prob(x, self.solution(theta), self.noise_std)

    def plot(self, axes: Axes, x: Tensor, **style: Any) -> None:
        """Draw the voltage trace x `(Dx,)`, or predictive bands of samples `(S, Dx)`."""
        draw_trace(axes, self.times, x, **style)
        axes.set_xlabel("time (ms)")
        axes.set_ylabel("voltage (mV)")
