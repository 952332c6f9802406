r"""Flow matching posterior estimation (FMPE).

A path leads from noise theta_0 ~ N(0, I) at t = 0 to (nearly) theta_1 ~ p(.|x) at t = 1:

    theta_t = t theta_1 + sigma_t theta_0,    sigma_t = 1 - (1 - min_noise) t.

A network learns the mean velocity of these straight lines at (theta_t, t, x) by regression, and
solving d theta/dt = v_t(theta, x) from noise then gives samples of the posterior. With
r_t^2 = t^2 + sigma_t^2 the network F is used as

    v_t(theta) = (r_t' theta + F(theta / r_t, x, t)) / r_t,

so that what enters and what is expected of it has unit variance at all t, and so that F = 0 leaves
N(0, I); for zeta = theta / r_t and the angle phi = arctan(t / sigma_t), d zeta / d phi = F.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.distributions import Distribution
from typing_extensions import override

from robust_npe.checks import require, require_positive_integer
from robust_npe.estimators.continuous import ContinuousFlow, Grid
from robust_npe.estimators.interfaces import Head, ScoreMethod
from robust_npe.estimators.vector_field import VectorField

__all__ = ["FMPE"]

DENSITY = 3.0  # power of the solver's time: its steps become shorter where the noise vanishes
VALIDATION_DRAWS = 16  # of time and noise for each pair


class Path(NamedTuple):
    """The path at some times.

    Attributes:
        t: Time.
        sigma: Standard deviation of the noise.
        norm: r_t.
    """

    t: Tensor
    sigma: Tensor
    norm: Tensor


class FMPE(Head):
    """Continuous normalizing flow that is trained by flow matching, without solving any equation.

    The loss is not -log q but a squared error of velocities, so the weight `beta` of a defense
    does not mean the same as for other estimators. See docs/fmpe.md.

    References:
        Wildberger, Dax, Buchholz, Green, Macke & Schoelkopf (2023), "Flow matching for scalable
        simulation-based inference", https://arxiv.org/abs/2305.17161

        Lipman et al. (2023), "Flow matching for generative modeling",
        https://arxiv.org/abs/2210.02747

    Args:
        dim_theta: Number of parameters D.
        dim_context: Number of features of the context.
        hidden: Width of the network's hidden layers.
        steps: Runge-Kutta steps of sampling and density.
        time_exponent: Times in the loss have a density proportional to t^time_exponent; 0 is
            uniform.
        min_noise: Noise that is left at t = 1, in standard deviations of the prior.
        draws: Times and noises for each pair in a step of training.
    """

    name = "fmpe"

    def __init__(
        self,
        dim_theta: int,
        dim_context: int,
        hidden: int = 128,
        steps: int = 16,
        time_exponent: float = 4.0,
        min_noise: float = 1e-3,
        draws: int = 1,
    ) -> None:
        super().__init__()
        for key, value in (("hidden", hidden), ("steps", steps), ("draws", draws)):
            require_positive_integer(f"estimator.{key}", value)
        require(time_exponent > -1, "estimator.time_exponent", time_exponent, "a number above -1")
        require(0 < min_noise < 1, "estimator.min_noise", min_noise, "between 0 and 1")
        self.dim_theta = dim_theta
        self.steps = steps
        self.time_exponent = time_exponent
        self.min_noise = min_noise
        self.draws = draws
        self.field = VectorField(dim_theta, dim_context, hidden)

    @property
    @override
    def score_method(self) -> ScoreMethod:
        """See `Head.score_method`."""
        return "integrated"

    def forward(self, context: Tensor) -> ContinuousFlow:
        """Return the flow for `context (*, C)`: batch shape `(*)`, event shape `(D,)`."""
        features = self.field.of_context(context)
        norm = (1 + self.min_noise**2) ** 0.5
        return ContinuousFlow(self.field, features, self._grid(context), self.dim_theta, norm)

    def loss(self, q: Distribution, theta: Tensor) -> Tensor:
        """Return the mean of |v_t(theta_t, x) - (theta_1 - (1 - min_noise) theta_0)|^2.

        Times and noise come from torch's global stream. Without a graph, as in validation, there
        are many of them for each pair.

        Args:
            q: What `forward` returned for the observations.
            theta: Parameters theta_1 that belong to them, `(B, D)`.
        """
        context = cast(ContinuousFlow, q).context
        draws = self.draws if torch.is_grad_enabled() else VALIDATION_DRAWS
        t = _spread(draws, theta) ** (1 / (1 + self.time_exponent))
        noise = torch.randn(draws, *theta.shape, dtype=theta.dtype, device=theta.device)
        path = self._path(t)
        theta_t = path.t.unsqueeze(-1) * theta + path.sigma.unsqueeze(-1) * noise
        error = self._velocity(theta_t, context, path) - (theta - (1 - self.min_noise) * noise)
        return error.square().sum(-1).mean()

    def velocity(self, theta_t: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Return v_t(theta_t, x), shape `(*, D)`.

        Args:
            theta_t: Shape `(*, D)`, in the units of the head.
            t: Times in [0, 1], shape `(*)`.
            context: Shape `(*, C)`.
        """
        return self._velocity(theta_t, self.field.of_context(context), self._path(t))

    def _velocity(self, theta_t: Tensor, features: Tensor, path: Path) -> Tensor:
        norm = path.norm.unsqueeze(-1)
        growth = (path.t - (1 - self.min_noise) * path.sigma) / path.norm  # dr/dt
        time = self.field.of_time(self._solver_time(path.sigma))
        return (growth.unsqueeze(-1) * theta_t + self.field(theta_t / norm, features, time)) / norm

    def _path(self, t: Tensor) -> Path:
        sigma = 1 - (1 - self.min_noise) * t
        return Path(t, sigma, (t.square() + sigma.square()).sqrt())

    def _solver_time(self, sigma: Tensor) -> Tensor:
        """Return s in [0, 1], which the solver's steps are equal in: sigma^(1/3) falls evenly."""
        return (1 - sigma ** (1 / DENSITY)) / (1 - self.min_noise ** (1 / DENSITY))

    def _grid(self, like: Tensor) -> Grid:
        fall = 1 - self.min_noise ** (1 / DENSITY)
        s = torch.linspace(0, 1, 2 * self.steps + 1, dtype=torch.float64, device=like.device)
        root = 1 - fall * s
        path = self._path((1 - root**DENSITY) / (1 - self.min_noise))
        # dphi/dt = 1 / r^2, and dt/ds
        speeds = DENSITY * root ** (DENSITY - 1) * fall / (1 - self.min_noise) / path.norm.square()
        return Grid(self.field.of_time(s.to(like.dtype)), speeds.to(like.dtype))


def _spread(draws: int, like: Tensor) -> Tensor:
    """Draw `(draws, B)` numbers that are uniform in [0, 1], and evenly spread as a whole: one in
    each of as many equal intervals, so that the mean over them has little noise."""
    size = len(like)
    order = torch.randperm(size, device=like.device)
    jitter = torch.rand(draws, size, dtype=like.dtype, device=like.device)
    offsets = torch.arange(draws, device=like.device).unsqueeze(1)
    return ((order + jitter) / size + offsets) / draws
