"""Posteriors of sbi: from its density estimators, and ensembles of them.

What is attacked is the density that was trained, which has some mass outside of the prior. sbi
divides by the mass inside, estimated anew at each call from thousands of samples, and rejects
samples outside, which under attack may never end: `SbiPosterior.acceptance` reports that mass.

References:
    Boelts, Deistler et al. (2025), "sbi reloaded", https://joss.theoj.org/papers/10.21105/joss.07754
"""

from __future__ import annotations

from typing import Any

import torch
from sbi.inference.posteriors import DirectPosterior, EnsemblePosterior, VectorFieldPosterior
from sbi.inference.potentials.likelihood_based_potential import LikelihoodBasedPotential
from sbi.inference.potentials.posterior_based_potential import PosteriorBasedPotential
from sbi.inference.potentials.ratio_based_potential import RatioBasedPotential
from sbi.neural_nets.estimators.nflows_flow import NFlowsFlow
from sbi.neural_nets.estimators.zuko_flow import ZukoFlow
from sbi.utils.sbiutils import within_support
from torch import Generator, Size, Tensor, nn
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from robust_npe.adapters.black_box import BlackBoxPosterior
from robust_npe.adapters.ensembles import WeightedEnsemble
from robust_npe.adapters.modules import like_weights
from robust_npe.adapters.sbi_likelihood import adapt_likelihood, adapt_ratio
from robust_npe.adapters.sbi_vector_field import VectorFieldFlow
from robust_npe.checks import ConfigError
from robust_npe.estimators.nflows import NflowsDistribution
from robust_npe.posterior import Posterior
from robust_npe.random import draws_from

__all__ = ["DensityEstimate", "SbiPosterior", "adapt_posterior", "density"]


def adapt_posterior(posterior: Any, **options: Any) -> Posterior:
    """Return a posterior of sbi as one of robust-npe.

    Args:
        posterior: What `build_posterior` returned. Of one that samples by MCMC, rejection,
            variational or importance sampling, the target of the sampler is meant.
        options: `num_draws` and `seed` for a likelihood or ratio, see `PriorDrawsPosterior`.
    """
    if isinstance(posterior, EnsemblePosterior):
        members = [adapt_posterior(member, **options) for member in posterior.posteriors]
        return WeightedEnsemble(members, posterior.weights)
    if isinstance(posterior, VectorFieldPosterior):
        return SbiPosterior(VectorFieldFlow(posterior.potential_fn), posterior.prior, **options)
    potential = posterior.potential_fn
    if isinstance(potential, LikelihoodBasedPotential):
        return adapt_likelihood(potential.likelihood_estimator, potential.prior, **options)
    if isinstance(potential, RatioBasedPotential):
        return adapt_ratio(potential.ratio_estimator, potential.prior, **options)
    corrected = isinstance(posterior, DirectPosterior) and type(posterior) is not DirectPosterior
    if isinstance(potential, PosteriorBasedPotential) and not corrected:
        return SbiPosterior(potential.posterior_estimator, potential.prior, **options)
    return BlackBoxPosterior(posterior)


class SbiPosterior(nn.Module):
    """A density estimator of sbi as a posterior, in evaluation mode.

    Args:
        estimator: A `ConditionalDensityEstimator`; or what maps x to a distribution.
        prior: The prior, for `acceptance`.
    """

    def __init__(self, estimator: nn.Module, prior: Any = None) -> None:
        super().__init__()
        self.estimator = estimator.eval()
        self.prior = prior

    def forward(self, x: Tensor) -> Distribution:
        """Return q(.|x), leakage included, for `x (B, Dx)`; more axes are flattened into Dx."""
        return density(self.estimator, like_weights(x, self.estimator))

    @torch.no_grad()
    def acceptance(self, x: Tensor, num_samples: int, generator: Generator) -> Tensor:
        """Return how much of q(.|x) is inside of the prior, in [0, 1], shape `(B,)`.

        Args:
            x: Observations `(B, Dx)`.
            num_samples: Samples per observation.
            generator: Source of the samples.

        Raises:
            ConfigError: The prior is not known.
        """
        if self.prior is None:
            raise ConfigError(
                "the prior is not known: as_posterior(estimator, prior=prior) tells it."
            )
        with draws_from(generator):
            theta = self(x).sample((num_samples,))
        inside = within_support(self.prior, theta.flatten(0, 1))
        return inside.unflatten(0, theta.shape[:2]).to(theta.dtype).mean(0)


def density(estimator: Any, x: Tensor) -> Distribution:
    """Return q(.|x) of a density estimator of sbi for `x (B, Dx)`, batch shape `(B,)`."""
    if isinstance(estimator, VectorFieldFlow):
        return estimator(x)
    x = x.reshape(len(x), *estimator.condition_shape)
    if isinstance(estimator, NFlowsFlow):  # its own `sample_and_log_prob` mixes up several x
        flow, (dim_theta,) = estimator.net, estimator.input_shape
        return NflowsDistribution(flow._transform, flow._embedding_net(x), dim_theta)
    if isinstance(estimator, ZukoFlow):
        return estimator.net(estimator.embedding_net(x))
    return DensityEstimate(estimator, x)


class DensityEstimate(Distribution):
    """Any density estimator of sbi at several x, through its own `sample` and `log_prob`.

    Samples, of a mixture density network for example, carry no gradient.

    Args:
        estimator: The `ConditionalDensityEstimator`.
        x: Conditions `(B, *condition_shape)`.
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012 (torch's interface)
    bounds_itself = True  # see `posterior.log_prob`
    has_rsample = False

    def __init__(self, estimator: Any, x: Tensor) -> None:
        self.estimator = estimator
        self.x = x
        super().__init__(x.shape[:1], Size(estimator.input_shape), validate_args=False)

    def log_prob(self, theta: Tensor) -> Tensor:
        """Return log q(theta) for `theta (*, B, *event_shape)`, shape `(*, B)`."""
        leading = theta.shape[: theta.ndim - len(self.event_shape)]
        samples = theta.reshape(-1, *self.batch_shape, *self.event_shape)
        return self.estimator.log_prob(samples, condition=self.x).reshape(leading)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw samples of shape `(*sample_shape, B, *event_shape)`."""
        shape = Size(sample_shape)
        samples = self.estimator.sample(Size([shape.numel()]), condition=self.x)
        return samples.reshape(*shape, *self.batch_shape, *self.event_shape)
