"""Hamiltonian Monte Carlo over the weights of networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Generator, Tensor
from typing_extensions import override

from robust_npe.bayesian.chains import ChainDraws, ChainSettings, HMCChains
from robust_npe.bayesian.inference import Inference, InferenceState, Weights
from robust_npe.bayesian.mixture import margins
from robust_npe.bayesian.network import Diagnostics
from robust_npe.bayesian.optimising import cross_entropies
from robust_npe.checks import require, require_positive, require_positive_integer
from robust_npe.reference.diagnostics import effective_draws, split_rhat

if TYPE_CHECKING:
    from robust_npe.bayesian.network import WeightEnsemble

__all__ = ["HMC"]

PROBES = 100  # training inputs whose predictions tell whether chains agree


class HMC(Inference):
    """Draws from the posterior over weights, by HMC with the likelihood of all training pairs.

    Several chains are computed at once. They move in units of the prior's standard deviations, and
    each adapts its step size during warm-up. Whether they have converged is told by what they
    predict, see `Diagnostics`: functions mix better than weights, which have many symmetries.

    References:
        Neal (2011), "MCMC using Hamiltonian dynamics", https://arxiv.org/abs/1206.1901

        Izmailov, Vikram, Hoffman & Wilson (2021), "What are Bayesian neural network posteriors
        really like?", https://arxiv.org/abs/2104.14421

    Args:
        chains: Number of chains.
        draws: Draws that each chain keeps.
        warm_up: Trajectories before these, in which step sizes adapt.
        thinning: Trajectories per draw.
        leapfrog_steps: Steps per trajectory.
        step_size: To start from, in units of the prior's standard deviation.
        acceptance: What the step size aims at.
        start: `network`: fresh initial weights; `prior`: draws from the prior (published).
    """

    name = "hmc"

    def __init__(
        self,
        chains: int = 5,
        draws: int = 5,
        warm_up: int = 100,
        thinning: int = 5,
        leapfrog_steps: int = 10,
        step_size: float = 0.01,
        acceptance: float = 0.8,
        start: Literal["network", "prior"] = "network",
    ) -> None:
        counts = {"chains": chains, "warm_up": warm_up, "thinning": thinning}
        for key, value in {**counts, "leapfrog_steps": leapfrog_steps}.items():
            require_positive_integer(f"inference.{key}", value)
        require(draws > 1, "inference.draws", draws, "at least 2")
        require_positive("inference.step_size", step_size)
        require(0 < acceptance < 1, "inference.acceptance", acceptance, "between 0 and 1")
        self.chains = chains
        self.draws = draws
        self.warm_up = warm_up
        self.thinning = thinning
        self.leapfrog_steps = leapfrog_steps
        self.step_size = step_size
        self.acceptance = acceptance
        self.start = start

    @property
    @override
    def num_draws(self) -> int:
        return self.chains * self.draws

    @override
    def begin(
        self, network: WeightEnsemble, x: Tensor, y: Tensor, generator: Generator
    ) -> InferenceState:
        stds = network.prior_stds

        def log_density(state: Weights) -> Tensor:
            weights = [s * u for s, u in zip(stds, state, strict=True)]
            log_likelihood = -len(x) * cross_entropies(network.logits(x, weights), y)
            return log_likelihood - 0.5 * sum(u.square().sum((1, 2)) for u in state)

        if self.start == "prior":
            start = network.prior_draws(self.chains, generator)
        else:
            start = network.initial(self.chains, generator)
        start = [w / s for w, s in zip(start, stds, strict=True)]
        chains = HMCChains(log_density, start, self._settings, generator)

        def finish() -> Mapping[str, Any]:
            found = chains.result()
            draws = [s * d for s, d in zip(stds, found.draws, strict=True)]  # (C, n, ...)
            weights = [d.flatten(0, 1) for d in draws]
            odds = -margins(network.logits(x[:PROBES], weights), y[:PROBES])
            network.assign(weights, self._diagnostics(found, odds, draws))
            return {"log_density": found.log_density.mean(0).tolist()}

        return InferenceState([chains], finish, generator)

    @property
    def _settings(self) -> ChainSettings:
        return ChainSettings(
            self.warm_up,
            self.draws,
            self.thinning,
            self.leapfrog_steps,
            self.step_size,
            self.acceptance,
        )

    def _diagnostics(self, found: ChainDraws, odds: Tensor, draws: Weights) -> Diagnostics:
        by_chain = odds.unflatten(0, (self.chains, self.draws))
        flat = torch.cat([d.flatten(2) for d in draws], -1)
        moved = (flat[:, -1] - flat[:, 0]).norm(dim=-1) / flat[:, 0].norm(dim=-1)
        return Diagnostics(
            acceptance=found.acceptance,
            rhat=float(split_rhat(by_chain).nan_to_num(torch.inf).quantile(0.95)),
            effective=float(effective_draws(by_chain).median()),
            divergent=found.divergent,
            moved=float(moved.mean()),
            step_size=float(found.step_size.mean()),
        )
