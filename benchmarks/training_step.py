"""Cost of one training step: each defense, and zuko's own flows as the yardstick.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --device cuda
    python benchmarks/training_step.py --embedding          # with an MLP before the flow

Everything runs on one thread, alternating; the medians of the repeats are reported, in CPU
milliseconds, on another device in milliseconds until it has finished. "none", "fim", ... are whole
trainings by `robust_npe.training.train`, divided by their number of steps: data access, clipping,
averaging and one validation included. "zuko" is a bare forward and backward pass with a fused Adam
step on one fixed batch of 512. "autograd" is the same defense without the compiled scores.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from unittest import mock

import torch
import zuko
from torch import Tensor
from torch.distributions.constraints import real_vector

from robust_npe.defenses import (
    FIM,
    TRADES,
    AdversarialTraining,
    Defense,
    FIMEigenvalue,
    NoDefense,
    SWAGWeights,
    VIWeights,
)
from robust_npe.estimators import MAF, MLP, NSF, Embedding, Estimator, Head, Identity
from robust_npe.estimators.autoregressive import AutoregressiveFlow
from robust_npe.random import draws_from, stream
from robust_npe.training import TrainingSettings, train

BATCH = 512
HeadFactory = Callable[[int, int], Head]
EmbeddingFactory = Callable[[int], Embedding]
DIMS = [(10, 10), (4, 100), (2, 50)]
EMBEDDED_DIMS = [(8, 200)]
DEFENSES: dict[str, Callable[[], Defense]] = {
    "none": NoDefense,
    "fim fast": lambda: FIM(0.01),
    "fim exact": lambda: FIM(0.01, gradient="exact"),
    "fim exact, autograd": lambda: FIM(0.01, gradient="exact"),
    "fim_eigenvalue fast": lambda: FIMEigenvalue(0.01),
    "swag": SWAGWeights,
    "vi": VIWeights,
    "trades": lambda: TRADES(0.1),
    "adversarial_training": AdversarialTraining,
    "  5 steps, warm start": lambda: AdversarialTraining(steps=5, warm_start=True),
    "  in every 4th epoch": lambda: AdversarialTraining(attack_every=4),
}
SLOW = ("fim exact", "fim exact, autograd", "trades", "adversarial_training")
PLAIN = ("none", "fim fast", "fim_eigenvalue fast")
SPLINE = {
    "univariate": partial(zuko.transforms.MonotonicRQSTransform, bound=10.0),
    "shapes": [(12,), (12,), (11,)],
}


def seconds(device: str) -> float:
    """Time of the processor, or until another device has finished."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def engine_step(
    head: HeadFactory,
    embedding: EmbeddingFactory,
    defense: Defense,
    dims: tuple[int, int],
    steps: int,
    epochs: int,
    device: str,
) -> float:
    """Milliseconds per step of a training."""
    pairs = tuple(torch.randn(BATCH * steps, dim, device=device) for dim in dims)
    validation = tuple(torch.randn(BATCH, dim, device=device) for dim in dims)
    with draws_from(stream(0)):
        estimator = defense.prepare(Estimator(head, embedding, *dims, real_vector)).to(device)
    settings = TrainingSettings(batch_size=BATCH, max_epochs=epochs, min_epochs=epochs)
    start = seconds(device)
    train(estimator, defense, pairs, validation, settings, stream(1))  # type: ignore[arg-type]
    return 1e3 * (seconds(device) - start) / (steps * epochs)


def zuko_step(dims: tuple[int, int], spline: bool, steps: int, device: str) -> float:
    """Milliseconds per step of zuko's flow."""
    dim_theta, dim_x = dims
    shape = SPLINE if spline else {}
    flow = zuko.flows.MAF(dim_theta, dim_x, transforms=3, hidden_features=[100, 100], **shape).to(
        device
    )
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3, fused=True)
    theta, x = (torch.randn(BATCH, dim, device=device) for dim in (dim_theta, dim_x))

    def step() -> Tensor:
        loss = -flow(x).log_prob(theta).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    step()
    start = seconds(device)
    for _ in range(steps):
        step()
    return 1e3 * (seconds(device) - start) / steps


def measure(
    head: HeadFactory,
    embedding: EmbeddingFactory,
    spline: bool,
    dims: tuple[int, int],
    repeats: int,
    names: list[str],
    device: str,
) -> None:
    """Print one row of the table for each defense."""
    times: dict[str, list[float]] = {name: [] for name in ("zuko", *names)}
    for _ in range(repeats):
        times["zuko"].append(zuko_step(dims, spline, 100, device))
        for name in names:
            # an epoch ends with a validation, which attacks as well: 20 steps are typical
            epochs = 1 if name in SLOW else 10 if name in PLAIN else 4
            eager = mock.patch.object(AutoregressiveFlow, "score_method", new="inverted")
            with eager if name == "fim exact, autograd" else nullcontext():
                step = engine_step(head, embedding, DEFENSES[name](), dims, 20, epochs, device)
            times[name].append(step)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        row = f"| {'nsf' if spline else 'maf'} | {dims[0]}, {dims[1]} | {name} | {value:.2f} "
        ratios = f"| {value / medians['zuko']:.2f} | {value / medians['none']:.2f} |"
        print(row + ratios, flush=True)


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--estimators", nargs="+", default=["maf", "nsf"])
    parser.add_argument("--defenses", nargs="+", default=list(DEFENSES), choices=list(DEFENSES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--embedding", action="store_true", help="(zuko's flow has none)")
    arguments = parser.parse_args()
    names = ["none", *(name for name in arguments.defenses if name != "none")]
    torch.set_num_threads(1)
    print("| estimator | D, Dx | step | ms | / zuko | / none |")
    print("|---|---|---|---|---|---|")
    for name in arguments.estimators:
        for dims in EMBEDDED_DIMS if arguments.embedding else DIMS:
            parts = NSF if name == "nsf" else MAF, MLP if arguments.embedding else Identity
            measure(*parts, name == "nsf", dims, arguments.repeats, names, arguments.device)


if __name__ == "__main__":
    main()
