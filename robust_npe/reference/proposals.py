"""Distributions that importance samples are drawn from, on the unbounded space of a `Target`."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Generator, Tensor
from torch.distributions import Distribution
from typing_extensions import override

from robust_npe.random import draws_from
from robust_npe.reference.target import Target

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

__all__ = ["Amortized", "Prior", "Proposal", "StudentMixture"]


class Proposal(ABC):
    """A distribution over z."""

    @abstractmethod
    def sample(self, num_samples: int, generator: Generator) -> Tensor:
        """Draw z of shape `(num_samples, D)`, float64."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log density of z `(N, D)`: float64, shape `(N,)`, -inf instead of NaN."""


class Amortized(Proposal):
    """q(theta|x) of a trained estimator, or any distribution over theta.

    Args:
        q: Distribution with batch shape `(1,)` or `()`.
        target: Gives the coordinates.
        device: Where q computes.
    """

    def __init__(self, q: Distribution, target: Target, device: torch.device | None = None) -> None:
        self.q = q
        self.target = target
        self.device = device or torch.device("cpu")

    @override
    def sample(self, num_samples: int, generator: Generator) -> Tensor:
        with draws_from(generator), torch.no_grad():
            theta = self.q.sample((num_samples,)).reshape(num_samples, -1)
        return self.target.to_z(theta.cpu())

    @override
    @torch.no_grad()
    def log_prob(self, z: Tensor) -> Tensor:
        theta, log_det, regular = self.target.to_theta(z)
        theta = theta.float().to(self.device)
        batch = len(self.q.batch_shape)
        value = self.q.log_prob(theta.unsqueeze(1) if batch else theta).reshape(-1)
        value = (
            value.cpu().double().nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)
        )
        return torch.where(regular, value + log_det, -torch.inf)


class Prior(Amortized):
    """The prior: it covers every posterior, so that no mode is out of reach."""

    def __init__(self, target: Target) -> None:
        super().__init__(target.task.prior, target)

    @override
    def sample(self, num_samples: int, generator: Generator) -> Tensor:
        return self.target.to_z(self.target.task.sample_prior(num_samples, generator))


class StudentMixture(Proposal):
    """Mixture of multivariate t distributions: Gaussian clusters with tails that cover.

    Args:
        weights: Shape `(K,)`, summing to one.
        means: Shape `(K, D)`.
        covariances: Scale matrices, shape `(K, D, D)`.
        freedom: Degrees of freedom, positive.
    """

    def __init__(
        self, weights: Tensor, means: Tensor, covariances: Tensor, freedom: float = 6.0
    ) -> None:
        self.weights, self.means, self.freedom = weights, means, freedom
        self.factors = torch.linalg.cholesky(covariances)
        self.inverses = torch.linalg.inv(self.factors)

    @classmethod
    def fit(
        cls, z: Tensor, generator: Generator, effective: float, inflation: float = 1.2
    ) -> StudentMixture:
        """Fit to samples z `(N, D)`; the Bayesian information criterion sets the size.

        Args:
            z: Samples, possibly with repetitions.
            generator: Source of the starting values.
            effective: How many independent samples z is worth: repetitions tell nothing new, and
                a component that closes in on a point that was drawn many times covers nothing.
            inflation: Factor on the covariances, so that the fit is wider than the samples.
        """
        effective = min(effective, len(z))
        seed = int(torch.randint(2**31 - 1, (), generator=generator))
        # whitened, because posteriors are thin in some directions and the fit's floor is not
        mean, std = z.mean(0), z.std(0).clamp(min=1e-12)
        ridge = 1e-10 * torch.eye(z.shape[1], dtype=z.dtype)
        factor = std[:, None] * torch.linalg.cholesky(torch.cov(((z - mean) / std).T) + ridge)
        white = torch.linalg.solve_triangular(factor, (z - mean).T, upper=False).T
        model = _smallest_bic(white.numpy(), effective, seed)
        covariances = factor @ torch.from_numpy(model.covariances_) @ factor.T
        means = mean + torch.from_numpy(model.means_) @ factor.T
        return cls(torch.from_numpy(model.weights_), means, inflation * covariances)

    def sample(self, num_samples: int, generator: Generator) -> Tensor:
        """See `Proposal.sample`; the share of each component is fixed up to rounding."""
        grid = (torch.arange(num_samples) + torch.rand((), generator=generator)) / num_samples
        which = torch.searchsorted(self.weights.cumsum(0), grid.double())
        which = which.clamp(max=len(self.weights) - 1)
        normal = torch.randn(num_samples, self.means.shape[1], 1, generator=generator).double()
        with draws_from(generator):
            chi2 = torch.distributions.Chi2(torch.tensor(self.freedom).double())
            scale = (self.freedom / chi2.sample((num_samples, 1))).sqrt()
        return self.means[which] + scale * (self.factors[which] @ normal).squeeze(-1)

    @override
    def log_prob(self, z: Tensor) -> Tensor:
        dim, freedom = z.shape[1], self.freedom
        # one matrix product per component: much faster than small triangular systems
        pairs = zip(self.means, self.inverses, strict=True)
        white = [((z - mean) @ inverse.T).square().sum(-1) for mean, inverse in pairs]
        distance = torch.stack(white, dim=1)
        constant = math.lgamma((freedom + dim) / 2) - math.lgamma(freedom / 2)
        constant -= dim / 2 * math.log(freedom * math.pi)
        log_det = self.factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        terms = constant - log_det - (freedom + dim) / 2 * torch.log1p(distance / freedom)
        return torch.logsumexp(terms + self.weights.log(), dim=1).nan_to_num(
            nan=-torch.inf, neginf=-torch.inf
        )


@cache
def _threads() -> ThreadpoolController:
    """Return the control of other libraries' threads, which takes milliseconds to make."""
    return ThreadpoolController()


def _smallest_bic(data: np.ndarray, effective: float, seed: int) -> GaussianMixture:
    """Fit mixtures of 1, 2, 4, ... Gaussians as long as the criterion falls."""
    from sklearn.exceptions import ConvergenceWarning  # slow to import, and rarely needed
    from sklearn.mixture import GaussianMixture

    best, lowest = None, math.inf
    parameters = data.shape[1] * (data.shape[1] + 3) // 2 + 1
    for exponent in range(6):
        size = 2**exponent
        if size > 1 and size * parameters * 5 > effective:
            break
        model = GaussianMixture(size, reg_covar=1e-4, tol=1e-2, max_iter=20, random_state=seed)
        with warnings.catch_warnings(), _threads().limit(limits=torch.get_num_threads()):
            # a rough fit is enough: weights correct it
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(data)
            fit = 2 * effective * model.score(data)
        criterion = size * parameters * math.log(effective) - fit
        if criterion >= lowest:
            break
        best, lowest = model, criterion
    assert best is not None
    return best
