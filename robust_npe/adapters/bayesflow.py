"""Approximators of bayesflow 2 with the torch backend (needs Python 3.12).

A posterior here is what the approximator is behind its `bayesflow.Adapter`, whose transforms are
numpy's and have no gradient: x is what it hands on as `inference_conditions`, or, with a summary
network, as `summary_variables`; theta is what it hands on as `inference_variables`.

References:
    Radev et al. (2023), "BayesFlow: Amortized Bayesian Workflows With Neural Networks",
    https://arxiv.org/abs/2306.16015
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from robust_npe.checks import require
from robust_npe.random import draws_from, stream

__all__ = ["ApproximatorPosterior", "adapt", "adapt_workflow"]


def adapt(approximator: Any, x_shape: Sequence[int] | None = None) -> ApproximatorPosterior:
    """Return a `ContinuousApproximator` as a posterior; see `ApproximatorPosterior`."""
    return ApproximatorPosterior(approximator, x_shape)


def adapt_workflow(workflow: Any, x_shape: Sequence[int] | None = None) -> ApproximatorPosterior:
    """Return the approximator of a `BasicWorkflow` as a posterior."""
    return ApproximatorPosterior(workflow.approximator, x_shape)


class ApproximatorPosterior:
    """An approximator as a posterior, in the coordinates behind its adapter.

    Args:
        approximator: What was trained, with the torch backend.
        x_shape: Shape of one x for a summary network, e.g. `(n, Dx)` of sets; None for `(Dx,)`.

    Raises:
        ConfigError: keras computes with another backend.
    """

    name = "bayesflow"

    def __init__(self, approximator: Any, x_shape: Sequence[int] | None = None) -> None:
        import keras

        backend = keras.backend.backend()
        require(backend == "torch", "KERAS_BACKEND", backend, "torch, which has gradients here")
        self.approximator = approximator
        self.x_shape = x_shape
        self._dim_theta: int | None = None

    def __call__(self, x: Tensor) -> Approximation:
        """Return q(.|x) for `x (B, Dx)`."""
        x = x if self.x_shape is None else x.reshape(len(x), *self.x_shape)
        summarised = self.approximator.summary_network is not None
        given = (None, x) if summarised else (x, None)
        conditions, _ = self.approximator._standardize_and_resolve(*given, stage="inference")
        if self._dim_theta is None:
            with draws_from(stream(0, "shape of theta")), torch.no_grad():
                network = self.approximator.inference_network
                self._dim_theta = network.sample((1,), conditions=conditions[:1]).shape[-1]
        return Approximation(self.approximator, conditions, self._dim_theta)


class Approximation(Distribution):
    """The distributions of an approximator at several x.

    Args:
        approximator: The approximator.
        conditions: What its inference network is given, `(B, K)`.
        dim_theta: Number of parameters D.
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012 (torch's interface)
    bounds_itself = True  # see `posterior.log_prob`
    has_rsample = True

    def __init__(self, approximator: Any, conditions: Tensor, dim_theta: int) -> None:
        self.approximator = approximator
        self.conditions = conditions
        super().__init__(conditions.shape[:1], Size([dim_theta]), validate_args=False)

    def log_prob(self, theta: Tensor) -> Tensor:
        """Return log q(theta) for `theta (*, B, D)`, shape `(*, B)`."""
        conditions = self.conditions.expand(*theta.shape[:-1], -1)
        z, log_det = self._standardized(theta, stage="inference", log_det_jac=True)
        return self.approximator.inference_network.log_prob(z, conditions=conditions) + log_det

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw reparameterised samples of shape `(*sample_shape, B, D)`."""
        seed = int(torch.randint(2**31, ()))  # so that samples follow torch's global generator
        conditions = self.conditions.expand(*sample_shape, *self.conditions.shape)
        network = self.approximator.inference_network
        z = network.sample(tuple(conditions.shape[:-1]), conditions=conditions, seed=seed)
        return self._standardized(z, stage="inference", forward=False)

    def _standardized(self, theta: Tensor, **options: Any) -> Any:
        standardizer = self.approximator.standardizer
        return standardizer.maybe_standardize(theta, key="inference_variables", **options)
