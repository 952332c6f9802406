"""Tasks whose observations have a shape of their own: images, series, sets of iid observations."""

from __future__ import annotations

import itertools
import math
from abc import ABC
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Independent, Uniform

from robust_npe.checks import require
from robust_npe.tasks.base import Task
from robust_npe.tasks.noise import gaussian_norm
from robust_npe.tasks.plots import draw_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ShapedTask", "box", "fitting_embedding"]

MANY_FEATURES = 50  # from which on a net comes before the density estimator
CHANNELS = 8  # sides shorter than this, or than a quarter of the other, are channels of a series


class ShapedTask(Task, ABC):
    """A task whose x has the shape `x_shape`; everywhere else it is flattened, row by row.

    Attributes:
        x_shape: Shape of one observation as its maker knows it, with a product of `dim_x`.
        iid: Whether the first axis of x numbers exchangeable observations.
        noise_std: Standard deviation of the observation noise, of all features or of each.
    """

    x_shape: tuple[int, ...]
    iid: bool
    noise_std: float | Sequence[float] | None

    def shape_x(
        self,
        x_shape: Sequence[int],
        iid: bool,
        noise_std: float | Sequence[float] | None,
        theta_names: Sequence[str] | None,
        x_names: Sequence[str] | None,
    ) -> None:
        """Set everything that follows from the shape of x; the prior is known by then.

        Args:
            x_shape: Shape of one observation.
            iid: Whether its first axis numbers exchangeable observations.
            noise_std: One number, or one for each of the `dim_x` features.
            theta_names: D names, None for `theta_1`, ...
            x_names: `dim_x` names, or one for each entry of the last axis; None for `x_1`, ...

        Raises:
            ConfigError: Shape, names or noise do not fit each other.
        """
        sides = tuple(int(side) for side in x_shape)
        positive = len(sides) > 0 and min(sides) > 0
        require(positive, "task.x_shape", list(x_shape), "a list of positive integers")
        self.x_shape, self.dim_x = sides, math.prod(sides)
        self.iid = iid
        self.embedding, self.embedding_settings = fitting_embedding(sides, iid)
        self._theta_names = _names("task.theta_names", theta_names, self.dim_theta)
        self._x_names = _feature_names(x_names, sides)
        self.noise_std = noise_std
        if noise_std is not None:
            stds = self._noise_stds()
            fits = len(stds) == self.dim_x and min(stds) >= 0 < max(stds)
            expected = f"a positive number, or {self.dim_x} of them: one for each feature"
            require(fits, "task.noise_std", noise_std, expected)

    @property
    def theta_names(self) -> list[str]:
        """Those that were given."""
        return self._theta_names or super().theta_names

    @property
    def x_names(self) -> list[str]:
        """Those that were given, with the other indices where x has several axes."""
        return self._x_names

    @property
    def noise_norm(self) -> float | None:
        """Expected L2 norm of independent Gaussian noise of these standard deviations."""
        return None if self.noise_std is None else expected_norm(self._noise_stds())

    def _noise_stds(self) -> list[float]:
        try:
            stds = np.asarray(self.noise_std, dtype=float)
        except (TypeError, ValueError):
            return []  # no numbers
        return stds.ravel().tolist() if stds.ndim else [float(stds)] * self.dim_x

    def plot(self, axes: Axes, x: Tensor, **style: Any) -> None:
        """Draw an image, the channels of a series, or the features in a row."""
        values = torch.as_tensor(x).detach().cpu()
        if self.embedding == "cnn2d" and len(self.x_shape) == 2:  # brightness has any unit
            height, width = self.x_shape
            draw_image(axes, values, (height, width), **{"vmin": None, "vmax": None} | style)
        elif self.embedding == "series_cnn" and values.ndim == 1:
            super().plot(axes, values.reshape(self.x_shape), **style)
        else:
            super().plot(axes, values if values.ndim == 1 else values.mT, **style)


def fitting_embedding(x_shape: tuple[int, ...], iid: bool) -> tuple[str, dict[str, Any]]:
    """Return the embedding that suits observations of a shape, and its settings.

    - iid: `deep_set`, whatever the shape of the elements;
    - one axis: `identity`, or `mlp` for more than 50 features;
    - two axes: a series if one side is shorter than 8, or than a quarter of the other. The shorter
      side holds the channels: `series_cnn` if it is the last, `cnn1d` if it is the first. Else an
      image: `cnn2d`;
    - three axes, the first the shortest: an image with channels, `cnn2d`;
    - anything else: `mlp`.
    """
    shape = list(x_shape)
    if iid:
        return "deep_set", {"shape": [shape[0], math.prod(shape[1:])]}
    if len(shape) == 2:
        short, long = sorted(shape)
        if short >= CHANNELS and 4 * short >= long:
            return "cnn2d", {"shape": shape}
        return ("series_cnn" if shape[1] == short else "cnn1d"), {"shape": shape}
    if len(shape) == 3 and shape[0] == min(shape):
        return "cnn2d", {"shape": shape}
    small = len(shape) == 1 and shape[0] <= MANY_FEATURES
    return ("identity" if small else "mlp"), {}


def box(low: Sequence[float] | None, high: Sequence[float] | None) -> Independent:
    """Return the uniform distribution between the bounds `task.low` and `task.high`.

    Raises:
        ConfigError: One is missing, or they do not fit each other.
    """
    require(low is not None and len(low) > 0, "task.low", low, "a list, one bound per parameter")
    assert low is not None
    expected = f"a list of {len(low)} numbers, each above that of task.low={list(low)}"
    fits = high is not None and len(high) == len(low)
    fits = fits and all(a < b for a, b in zip(low, high or (), strict=True))
    require(fits, "task.high", high, expected)
    assert high is not None
    edges = torch.tensor([list(low), list(high)], dtype=torch.float32)
    return Independent(Uniform(edges[0], edges[1]), 1)


def expected_norm(stds: Sequence[float]) -> float:
    """Return E|e| for independent e_j ~ N(0, std_j^2).

    With equal standard deviations it is a chi mean. Else, for the quadratic form Q = |e|^2 with
    E exp(-tQ) = prod_j (1 + 2 t std_j^2)^(-1/2), it is E sqrt(Q) = 1 / (2 sqrt(pi)) times the
    integral of (1 - E exp(-tQ)) t^(-3/2) over t > 0, which is computed over u = log t.
    """
    if min(stds) == max(stds):
        return gaussian_norm(stds[0], len(stds))
    largest = max(stds)
    square = (torch.tensor(list(stds), dtype=torch.float64) / largest).square()
    u = torch.linspace(-40, 40, 4001, dtype=torch.float64)
    log_transform = sum(-0.5 * torch.log1p(2 * u.exp() * s) for s in square)
    integrand = -torch.expm1(torch.as_tensor(log_transform)) * torch.exp(-u / 2)
    return largest * float(torch.trapezoid(integrand, u)) / (2 * math.sqrt(math.pi))


def _names(setting: str, names: Sequence[str] | None, num: int) -> list[str] | None:
    if names is None:
        return None
    fits = len(names) == num and len(set(names)) == num
    require(fits, setting, list(names), f"{num} different names")
    return [str(name) for name in names]


def _feature_names(names: Sequence[str] | None, shape: tuple[int, ...]) -> list[str]:
    if len(shape) == 1 or (names is not None and len(names) == math.prod(shape)):
        given = _names("task.x_names", names, math.prod(shape))
        return given or [f"x_{i + 1}" for i in range(shape[0])]
    *outer, last = (range(1, side + 1) for side in shape)
    given = _names("task.x_names", names, shape[-1])
    indices = itertools.product(*outer, last)
    if given is None:
        return [f"x_{','.join(map(str, index))}" for index in indices]
    return [f"{given[i - 1]}[{','.join(map(str, rest))}]" for *rest, i in indices]
