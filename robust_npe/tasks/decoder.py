"""The decoder of a variational autoencoder: its network, its training and its file."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Generator, Tensor, nn

from robust_npe.checks import ConfigError, require, require_positive
from robust_npe.files import plain_file
from robust_npe.random import child, draws_from

__all__ = ["load_decoder", "make_decoder", "save_decoder", "train_decoder"]

MAX_BYTES = 2**28  # of a decoder's file; one for MNIST has half a megabyte


def make_decoder(latent: int, hidden: int, pixels: int) -> nn.Sequential:
    """Return the network latent - hidden - hidden - hidden - pixels, with sigmoid output."""
    return nn.Sequential(*_layers([latent, hidden, hidden, hidden, pixels]), nn.Sigmoid())


def _layers(sizes: list[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return layers[:-1]


def train_decoder(
    images: Tensor,
    generator: Generator,
    latent: int = 3,
    hidden: int = 128,
    epochs: int = 200,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    pixel_std: float = 0.2,
) -> nn.Sequential:
    """Train a variational autoencoder on images and return its decoder.

    Minimises the negative evidence lower bound with pixel noise N(0, pixel_std^2), by Adam with
    a learning rate that falls to zero along a cosine. Equal generators give equal weights on one
    machine with one number of threads.

    Source: Kingma & Welling (2014), "Auto-encoding variational Bayes",
    https://arxiv.org/abs/1312.6114.

    Args:
        images: Pixels in [0, 1], shape `(N, P)`.
        generator: The only source of randomness.
        latent: Number of latent dimensions.
        hidden: Width of the hidden layers.
        epochs: Passes over the images.
        batch_size: Images in one step.
        learning_rate: Initial learning rate.
        pixel_std: Standard deviation of the pixels given the latent variables.
    """
    for name, value in {"latent": latent, "hidden": hidden, "epochs": epochs}.items():
        require(value >= 1, name, value, "at least 1")
    require_positive("pixel_std", pixel_std)
    with draws_from(generator):
        encoder = nn.Sequential(*_layers([images.shape[1], hidden, hidden, 2 * latent]))
        decoder = make_decoder(latent, hidden, images.shape[1])
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    steps = epochs * math.ceil(len(images) / batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    numbers = child(generator)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=numbers).split(batch_size):
            loss = _negative_elbo(encoder, decoder, images[rows], pixel_std, numbers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return decoder.requires_grad_(False).eval()


def _negative_elbo(
    encoder: nn.Module, decoder: nn.Module, x: Tensor, pixel_std: float, generator: Generator
) -> Tensor:
    """Mean negative evidence lower bound, without its constant."""
    mean, log_std = encoder(x).chunk(2, dim=-1)
    noise = torch.randn(mean.shape, generator=generator)
    residual = (x - decoder(mean + log_std.exp() * noise)) / pixel_std
    divergence = 0.5 * (mean**2 + (2 * log_std).exp() - 1) - log_std
    return (0.5 * (residual**2).sum(-1) + divergence.sum(-1)).mean()


def save_decoder(decoder: nn.Sequential, path: str | Path, command: str) -> None:
    """Write the weights as safetensors, with the command that made them in the header."""
    save_file(decoder.state_dict(), path, metadata={"command": command})


def load_decoder(path: str | Path) -> nn.Sequential:
    """Read a decoder that `save_decoder` wrote; no code in the file can be executed.

    Raises:
        ConfigError: If there is no such file, or it does not hold a decoder.
    """
    with plain_file(path, "task.decoder", MAX_BYTES) as file:
        content = file.read()
    try:
        weights = load(content)
        latent, hidden = weights["0.weight"].shape[1], weights["0.weight"].shape[0]
        with torch.device("meta"):  # draws no initial weights
            decoder = make_decoder(latent, hidden, weights["6.bias"].shape[0])
        decoder.load_state_dict(weights, assign=True)
    except (SafetensorError, KeyError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"task.decoder={str(path)!r} does not hold a decoder with three hidden layers as "
            f"safetensors ({reason}): make one with scripts/train_decoder.py."
        ) from error
    return decoder.float().requires_grad_(False).eval()
