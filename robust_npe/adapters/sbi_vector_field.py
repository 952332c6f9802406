"""Flow matching and score-based posteriors of sbi, by their probability-flow ODE.

sbi takes several x at once for one data set of independent observations; here each has its own
posterior. Gradients with respect to x come from the adjoint equation.

References:
    Grathwohl et al. (2018), "FFJORD: Free-form Continuous Dynamics for Scalable Reversible
    Generative Models", https://arxiv.org/abs/1810.01367
"""

from __future__ import annotations

from typing import Any

from sbi.inference.potentials.vector_field_potential import VectorFieldBasedPotential
from torch import Tensor, nn
from torch.distributions import AffineTransform, Distribution, TransformedDistribution

__all__ = ["VectorFieldFlow", "adapt_estimator"]


class VectorFieldFlow(nn.Module):
    """The continuous flow of a vector field estimator.

    Args:
        potential: sbi's potential of the estimator, which holds the solver and its tolerances.
    """

    def __init__(self, potential: VectorFieldBasedPotential) -> None:
        super().__init__()
        self.field: Any = potential.vector_field_estimator
        self.solver = potential.neural_ode

    def forward(self, x: Tensor) -> Distribution:
        """Return q(.|x) for `x (B, Dx)`, a flow of zuko."""
        flow = self.solver(x.reshape(len(x), *self.field.condition_shape))
        if not self.field.compose_enabled:
            return flow
        affine = AffineTransform(self.field._theta_shift, self.field._theta_scale, event_dim=1)
        return TransformedDistribution(flow, affine, validate_args=False)


def adapt_estimator(estimator: Any, prior: Any = None) -> Any:
    """Return a vector field estimator of sbi, as its training returns it, as a posterior."""
    from robust_npe.adapters.sbi import SbiPosterior

    potential = VectorFieldBasedPotential(estimator, prior)
    return SbiPosterior(VectorFieldFlow(potential), prior)
