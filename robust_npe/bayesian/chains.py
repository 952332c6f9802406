"""Chains of Hamiltonian Monte Carlo, computed side by side."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from robust_npe.bayesian.inference import Columns, Weights
from robust_npe.bayesian.leapfrog import DualAveraging, Point, kinetic
from robust_npe.states import numbered, take_over

__all__ = ["ChainDraws", "ChainSettings", "HMCChains"]

DIVERGENT = 1000.0  # nats of energy error
JITTER = 0.1  # of step sizes, so that no trajectory comes back to where it began
TOLD = ("log_density", "acceptance", "diverged", "step_size")


@dataclass(frozen=True)
class ChainSettings:
    """How to sample.

    Attributes:
        warm_up: Trajectories in which step sizes adapt by `DualAveraging`.
        draws: Draws to keep of each chain.
        thinning: Trajectories per draw.
        leapfrog_steps: Steps of each trajectory.
        step_size: To start from.
        target: Acceptance that step sizes aim at.
    """

    warm_up: int
    draws: int
    thinning: int
    leapfrog_steps: int
    step_size: float
    target: float


@dataclass(frozen=True)
class ChainDraws:
    """What C chains drew.

    Attributes:
        draws: For each tensor of the state `(C, n, ...)`.
        log_density: At each draw, `(C, n)`.
        acceptance: Mean probability of acceptance after warm-up.
        divergent: Share of trajectories after warm-up whose energy error was above 1000 nats.
        step_size: Of each chain after warm-up, `(C,)`.
    """

    draws: Weights
    log_density: Tensor
    acceptance: float
    divergent: float
    step_size: Tensor


class HMCChains:
    """C chains that sample from a density with unit masses; an `InferenceStage`, whose step is one
    leapfrog.

    Args:
        log_density: Maps a state, tensors `(C, ...)`, to log densities up to a constant, `(C,)`.
        start: The state of C chains.
        settings: How to sample.
        generator: Source of randomness.

    Attributes:
        point: Where the chains are; at the start of the running trajectory.
        moving: How far that trajectory has come, after `leapfrogs` steps.
        momentum: There, or half a step on.
        size: Of its steps, `(C,)`.
        energy: At its start, `(C,)`, with the sign of log densities.
        kept: For each tensor of the state, the draws so far `(C, n, ...)`, zeros for those to come.
        told: What is known of each trajectory, `(T, C)` each.
    """

    unit = "trajectory"

    def __init__(
        self,
        log_density: Callable[[Weights], Tensor],
        start: Weights,
        settings: ChainSettings,
        generator: Generator,
    ) -> None:
        self.log_density = log_density
        self.settings = settings
        self.generator = generator
        self.point = Point.at(log_density, [w.clone() for w in start])
        self.moving = copy.deepcopy(self.point)
        value = self.point.value
        self.adaptation = DualAveraging(torch.full_like(value, settings.step_size), settings.target)
        self.momentum = [torch.zeros_like(w) for w in start]
        self.size, self.energy = torch.zeros_like(value), torch.zeros_like(value)
        self.leapfrogs = self.completed = 0
        self.total = settings.warm_up + settings.draws * settings.thinning
        self.kept = [w.new_zeros(len(w), settings.draws, *w.shape[1:]) for w in start]
        self.told = {name: value.new_zeros(self.total, len(value)) for name in TOLD}

    @property
    def is_warming_up(self) -> bool:
        """Whether step sizes still adapt."""
        return self.completed < self.settings.warm_up

    def step(self) -> None:
        """Take one step of a trajectory, which has a beginning before the first one and is accepted
        or not after the last."""
        if not self.leapfrogs:
            self._begin()
        sizes = self._sizes()
        state = [w + e * p for w, e, p in zip(self.moving.state, sizes, self.momentum, strict=True)]
        self.moving = Point.at(self.log_density, state)
        self.leapfrogs += 1
        is_last = self.leapfrogs == self.settings.leapfrog_steps
        self._kick(0.5 if is_last else 1.0)
        if is_last:
            self._end()

    def _begin(self) -> None:
        adapted = self.adaptation
        size = (adapted.log_step if self.is_warming_up else adapted.average).exp()
        self.told["step_size"][self.completed] = size
        jitter = 2 * torch.rand(size.shape, generator=self.generator).to(size) - 1
        self.size = size * (1 + JITTER * jitter)
        self.momentum = [
            torch.randn(w.shape, generator=self.generator).to(w) for w in self.point.state
        ]
        self.energy = self.point.value - kinetic(self.momentum)
        self.moving = self.point
        self._kick(0.5)

    def _kick(self, share: float) -> None:
        what = zip(self.momentum, self._sizes(), self.moving.slope, strict=True)
        self.momentum = [p + share * e * g for p, e, g in what]

    def _sizes(self) -> list[Tensor]:
        return [self.size.view(-1, *[1] * (w.ndim - 1)) for w in self.point.state]

    def _end(self) -> None:
        error = self.moving.value - kinetic(self.momentum) - self.energy
        broken = ~(error.abs() < DIVERGENT)
        probability = torch.where(broken, 0.0, error.clamp(max=0).exp())
        drawn = torch.rand(self.size.shape, generator=self.generator).to(self.size)
        self.point = self.moving.where(drawn < probability, self.point)
        for name, values in (
            ("log_density", self.point.value),
            ("acceptance", probability),
            ("diverged", broken),
        ):
            self.told[name][self.completed] = values
        if self.is_warming_up:
            self.adaptation.update(probability)
        self.leapfrogs, self.completed = 0, self.completed + 1
        after, rest = divmod(self.completed - self.settings.warm_up, self.settings.thinning)
        if after > 0 and not rest:
            for kept, w in zip(self.kept, self.point.state, strict=True):
                kept[:, after - 1] = w

    def result(self) -> ChainDraws:
        """Return what was drawn, when all trajectories are done."""
        warm_up, thinning = self.settings.warm_up, self.settings.thinning
        told = {name: values[warm_up:] for name, values in self.told.items()}
        return ChainDraws(
            draws=self.kept,
            log_density=told["log_density"][thinning - 1 :: thinning].T.contiguous(),
            acceptance=float(told["acceptance"].mean()),
            divergent=float(told["diverged"].double().mean()),
            step_size=self.adaptation.average.exp(),
        )

    def history(self) -> Columns:
        """Return a row for each trajectory and chain: log density where the chain then is, the
        probability that the trajectory was accepted, whether its energy error was above 1000 nats
        (0 or 1), its step size, and whether step sizes still adapted."""
        chains = len(self.size)
        trajectories = [t for t in range(self.completed) for _ in range(chains)]
        told = {name: v[: self.completed].flatten().tolist() for name, v in self.told.items()}
        return {
            "trajectory": trajectories,
            "chain": list(range(chains)) * self.completed,
            **told,
            "is_warm_up": [t < self.settings.warm_up for t in trajectories],
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what changes, except the generator, which has another owner."""
        return {
            "leapfrogs": self.leapfrogs,
            "completed": self.completed,
            "adaptation": self.adaptation.state_dict(),
            **{name: numbered(tensors) for name, tensors in self._tensors().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.leapfrogs, self.completed = state["leapfrogs"], state["completed"]
        self.adaptation.load_state_dict(state["adaptation"])
        for name, tensors in self._tensors().items():
            take_over(tensors, state[name])

    def _tensors(self) -> dict[str, list[Tensor]]:
        return {
            "point": self.point.tensors,
            "moving": self.moving.tensors,
            "momentum": self.momentum,
            "trajectory": [self.size, self.energy],
            "kept": self.kept,
            "told": [*self.told.values()],
        }
