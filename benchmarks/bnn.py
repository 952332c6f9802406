"""Fashion-MNIST: what attacks leave of the accuracy of Bayesian classifiers, and what that costs.

    python benchmarks/bnn.py FOLDER      # with the IDX files, 28 x 28; 4 minutes of one core

One line for each kind of inference: two hidden layers of 256 units, accuracy on all test images,
then on the first 200 of them under attacks in L_inf with epsilon 0.1, see
`robust_npe.metrics.masking`. HMC sees 1000 images, the others all 54 000 that are for
training. The second row has the predictions of the first one, and gradients that rounding loses.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from robust_npe.attacks import Noise, make_ball
from robust_npe.bayesian import HMC, SGD, SWAG, DeepEnsemble, Inference, MeanFieldVI, WeightEnsemble
from robust_npe.defenses import NoDefense
from robust_npe.estimators import Estimator, Identity
from robust_npe.metrics import Context, Masking
from robust_npe.metrics.classification import correct
from robust_npe.random import draws_from, stream
from robust_npe.tasks import IDXLabels
from robust_npe.training import infer

EPSILON, ATTACKED = 0.1, 200
PLANTED = "SGD, logits times 100"
CHAIN = {"chains": 1, "draws": 25, "warm_up": 150, "thinning": 4}
ROWS: Mapping[str, tuple[Inference, int, str]] = {
    "SGD": (SGD(), 60_000, "fan_in"),
    PLANTED: (SGD(), 60_000, "fan_in"),
    "ensemble of 10": (DeepEnsemble(), 60_000, "fan_in"),
    "SWAG": (SWAG(epochs=3, swag_epochs=2), 60_000, "fan_in"),
    "VI": (MeanFieldVI(), 60_000, "fan_in"),
    "HMC": (HMC(**CHAIN), 1000, "fan_in"),
    "HMC, N(0, 1) prior and start": (HMC(**CHAIN, start="prior"), 1000, "standard"),
}


def fitted(task: IDXLabels, inference: Inference, count: int, prior: str) -> Estimator:
    """Return a classifier of the first training images."""
    head = partial(WeightEnsemble, inference=inference, prior=prior)
    with draws_from(stream(0, "weights")):
        estimator = Estimator(head, Identity, 1, task.dim_x, task.support, "none")
    pairs = task.stored_pairs("train", 0, slice(0, count))
    infer(estimator, NoDefense(), pairs, stream(0, "infer"))
    return estimator.eval()


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", nargs="*", default=[*ROWS])
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = IDXLabels(options.folder, "fashion_mnist")
    theta, x = task.stored_pairs("test", 0, slice(0, 10_000))
    for name in options.rows:
        started = time.process_time()
        estimator = fitted(task, *ROWS[name])
        if name == PLANTED:
            with torch.no_grad():
                torch._foreach_mul_([*estimator.head.weights][-2:], 100.0)
        seconds = time.process_time() - started
        batches = zip(theta.split(1000), x.split(1000), strict=True)
        accuracy = torch.cat([correct(estimator, b, t) for t, b in batches]).double().mean()
        first = theta[:ATTACKED], x[:ATTACKED]
        ball = partial(make_ball, "linf", domain=task.domain)
        noisy = Noise()(estimator, first[1], ball=ball(EPSILON), generator=stream(1))
        context = Context(task, estimator, *first, noisy, True, 0, 512, Noise(), ball, EPSILON)
        measured = Masking()(context)[0].rows
        attack = time.process_time() - started - seconds
        shown = " ".join(f"{row['statistic']}={row['value']:.3f}" for row in measured)
        told = estimator.head.diagnostics
        print(f"{name}: accuracy={accuracy:.4f} fit={seconds:.0f}s attack={attack:.0f}s {shown}")
        if any(told):
            print("   ", " ".join(f"{k}={v:.3g}" for k, v in told._asdict().items()), flush=True)


if __name__ == "__main__":
    main()
