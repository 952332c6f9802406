"""Digits from the decoder of a variational autoencoder: images with three unknown causes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.distributions import Independent, Normal
from typing_extensions import override

from robust_npe.checks import require, require_positive
from robust_npe.tasks.base import Task
from robust_npe.tasks.decoder import load_decoder
from robust_npe.tasks.noise import gaussian_norm, normal_log_prob
from robust_npe.tasks.plots import draw_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["DEFAULT_DECODER", "VAE"]

DEFAULT_DECODER = Path(__file__).parent / "data" / "digits_decoder.safetensors"


class VAE(Task):
    """theta ~ N(0, I), x = decoder(theta) + N(0, 0.05^2) for every pixel.

    The decoder is fixed. The one that comes along draws the 8 x 8 digits of scikit-learn;
    `scripts/train_decoder.py` made it and trains others, on MNIST for instance.

    Source: Gloeckler, Deistler & Macke (2023), "Adversarial robustness of amortized Bayesian
    inference", https://arxiv.org/abs/2305.14984, which uses 28 x 28 pixels.

    Args:
        decoder: File of the decoder's weights (safetensors), the bundled one by default.
        noise_std: Standard deviation of the pixel noise, positive.
    """

    name = "vae"
    default_decoder: ClassVar[Path] = DEFAULT_DECODER
    constants: ClassVar[Sequence[str]] = ("default_decoder",)
    embedding = "mlp"

    def __init__(self, decoder: Path | None = None, noise_std: float = 0.05) -> None:
        require_positive("task.noise_std", noise_std)
        self.decoder = load_decoder(decoder or DEFAULT_DECODER)
        weights = list(self.decoder.parameters())
        latent, self.dim_x = weights[0].shape[1], len(weights[-1])
        self.side = math.isqrt(self.dim_x)
        require(self.side**2 == self.dim_x, "task.decoder", decoder, "for square images")
        self.noise_std = float(noise_std)
        self.prior = Independent(Normal(torch.zeros(latent), torch.ones(latent)), 1)

    @property
    def x_names(self) -> list[str]:
        """Row and column of each pixel."""
        return [f"pixel({i},{j})" for i in range(self.side) for j in range(self.side)]

    @property
    def noise_norm(self) -> float:
        """Expected L2 norm of the pixel noise."""
        return gaussian_norm(self.noise_std, self.dim_x)

    @override
    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        with torch.no_grad():
            mean = self.decoder(theta)
        return mean + self.noise_std * torch.randn(mean.shape, generator=generator)

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        """See `Task.log_likelihood`; float64, differentiable in theta and x."""
        return normal_log_prob(x, self.decoder(theta.float()).double(), self.noise_std)

    def plot(self, axes: Axes, x: Tensor, **style: Any) -> None:
        """Draw the image x `(Dx,)`, or the mean of predictive samples `(S, Dx)`."""
        draw_image(axes, x, (self.side, self.side), **{"cmap": "gray_r"} | style)
