"""Noise of the Fisher penalty's gradient on the plateau of the linear Gaussian task.

    python benchmarks/penalty_noise.py

Trains a MAF with beta 0.1 for some epochs, and compares gradients of the penalty on small batches
with the mean over many samples for all observations. Noise is the root mean square of the
difference, relative to the norm of the summed gradients of likelihood and penalty.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from fim_quality import simulate
from torch import Generator, Tensor

from robust_npe.defenses import FIM
from robust_npe.estimators import MAF, Estimator, Identity
from robust_npe.estimators.kernels.sampled_score import sampled_score
from robust_npe.estimators.kernels.weighted_noise import weighted_noise
from robust_npe.random import draws_from, stream
from robust_npe.tasks.gaussian_linear import GaussianLinear
from robust_npe.training import TrainingSettings, train

BETA, ROWS, BATCH, DIM = 0.1, 120, 512, 10
Noise = Callable[[int, Generator], tuple[Tensor, Tensor]]


def independent(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Independent vectors, with equal weights."""
    return torch.randn(DIM, count, generator=generator), torch.ones(count)


def orthogonal(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Directions of the weighted noise, with norms of their own and equal weights."""
    directions = unpaired(count, generator)[0]
    norms = torch.randn(DIM, count, generator=generator).norm(dim=0)
    return directions / directions.norm(dim=0) * norms, torch.ones(count)


def unpaired(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Weighted noise without the second half, which is the negative of the first one."""
    z, weight = weighted_noise(2 * count, DIM, generator, torch.float32)
    return z[:, :count].contiguous(), weight[:count]


def weighted(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Weighted noise."""
    return weighted_noise(count, DIM, generator, torch.float32)


def gradient(estimator: Estimator, x: Tensor, z: Tensor, weight: Tensor) -> Tensor:
    """Gradient of beta times the mean weighted squared score, for one z per row."""
    head = estimator.head
    nets = head.context, list(head.conditioners), head.univariate
    score = sampled_score(*nets, estimator.context(x), z)
    score = score / estimator.standardize.std
    return flat((BETA * weight * score.square().sum(1)).mean(), estimator)


def flat(value: Tensor, estimator: Estimator) -> Tensor:
    """Gradient with respect to all weights, in one vector."""
    parts = torch.autograd.grad(value, list(estimator.parameters()), materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def main() -> None:
    """Print one line for each kind of noise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--draws", type=int, default=150)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data, task, seed = simulate("gl", arguments.seed), GaussianLinear(), arguments.seed
    with draws_from(stream(seed, "weights")):
        estimator = Estimator(MAF, Identity, task.dim_theta, task.dim_x, task.prior.support)
    settings = TrainingSettings(max_epochs=arguments.epochs, min_epochs=arguments.epochs)
    defense, generator = FIM(BETA, rows=128, every=2), stream(seed, "train")
    train(estimator, defense, data["train"], data["validation"], settings, generator)

    theta, x = data["train"]
    many = [gradient(estimator, x, *independent(len(x), stream(9, k))) for k in range(8)]
    penalty = torch.stack(many).mean(0)
    likelihood = flat(-estimator(x).log_prob(theta).mean(), estimator)
    total = float((likelihood + penalty).norm())
    norms = float(likelihood.norm()), float(penalty.norm()), total
    print("norms of likelihood, penalty and sum: {:.2f} {:.2f} {:.2f}".format(*norms))

    def noise(name: str, expected: Tensor, draw: Callable[[Tensor, Generator], Tensor]) -> None:
        errors = []
        for k in range(arguments.draws):
            generator = stream(5, name, k)
            errors.append(draw(torch.randperm(len(x), generator=generator), generator) - expected)
        root = torch.stack(errors).square().sum(1).mean().sqrt()
        print(f"{name:<36} {float(root) / total:.2f}", flush=True)

    def of_likelihood(rows: Tensor, generator: Generator) -> Tensor:
        chosen = rows[:BATCH]
        return flat(-estimator(x[chosen]).log_prob(theta[chosen]).mean(), estimator)

    noise(f"likelihood, {BATCH} pairs", likelihood, of_likelihood)
    for kind in (independent, orthogonal, unpaired, weighted):
        noise(
            f"penalty, {ROWS} rows, {kind.__name__}",
            penalty,
            lambda rows, g, kind=kind: gradient(estimator, x[rows[:ROWS]], *kind(ROWS, g)),
        )


if __name__ == "__main__":
    main()
