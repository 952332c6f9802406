"""Speed and strength of PGD on a MAF for Lotka-Volterra: 512 observations, 200 steps, L2.

    python benchmarks/attack.py

The yardstick draws 5 fresh samples of the clean posterior at every step, evaluates both densities,
and differentiates with the parameters unfrozen, as the published attack does. One thread, the
methods alternate; medians of the repeats, in CPU seconds. The KL is the median over observations,
with 256 fresh samples.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from robust_npe.attacks import PGD, KLForward, data_domain, make_ball, std_unit
from robust_npe.attacks.objectives import Climb, Objective
from robust_npe.defenses import NoDefense
from robust_npe.divergences import kl
from robust_npe.estimators import MAF, Estimator, Identity
from robust_npe.posterior import Posterior
from robust_npe.random import draws_from, stream
from robust_npe.tasks.lotka_volterra import LotkaVolterra
from robust_npe.training import TrainingSettings, train

NUM_ATTACKED, EPSILON, STEPS = 512, 0.5, 200


class FreshSamples(Objective):
    """KL(q(.|x) || q(.|x~)) from new samples and both densities at every call."""

    name = "kl_forward"

    def __call__(
        self, posterior: Posterior, x: Tensor, theta: Tensor | None, generator: Generator
    ) -> Climb:
        """See `Objective`."""
        return lambda x_adv: kl(posterior(x), posterior(x_adv), 5, generator)


def train_estimator(epochs: int) -> tuple[Estimator, Tensor]:
    """An undefended estimator and test observations."""
    task = LotkaVolterra()
    theta = task.sample_prior(11_024, stream(0, "prior"))
    x = task.simulate(theta, stream(0, "simulate"))
    with draws_from(stream(0, "weights")):
        estimator = Estimator(MAF, Identity, task.dim_theta, task.dim_x, task.prior.support)
    settings = TrainingSettings(max_epochs=epochs, min_epochs=epochs)
    parts = (theta[1024:], x[1024:]), (theta[512:1024], x[512:1024])
    train(estimator, NoDefense(), *parts, settings, stream(0, "train"))
    return estimator, x[:NUM_ATTACKED]


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    estimator, x = train_estimator(arguments.epochs)
    ball = make_ball("l2", EPSILON * std_unit(x), domain=data_domain(x))

    def run(objective: Objective, posterior: Posterior, seed: int) -> Tensor:
        attack = PGD(objective, steps=STEPS)
        return attack(posterior, x, ball=ball, generator=stream(seed, "attack"))

    # hidden in a function, the parameters are not found and so not frozen
    methods: dict[str, Callable[[int], Tensor]] = {
        "5 fresh samples, unfrozen": lambda s: run(FreshSamples(), lambda v: estimator(v), s),
        "5 fresh samples, frozen": lambda s: run(FreshSamples(), estimator, s),
        "kl_forward, 5 samples": lambda s: run(KLForward(5), estimator, s),
        "kl_forward, 2 samples": lambda s: run(KLForward(2), estimator, s),
        "kl_forward, 1 sample": lambda s: run(KLForward(1), estimator, s),
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    divergences: dict[str, list[float]] = {name: [] for name in methods}
    for seed in range(arguments.repeats):
        for name, method in methods.items():
            start = time.process_time()
            x_adv = method(seed)
            seconds[name].append(time.process_time() - start)
            with torch.no_grad():
                values = kl(estimator(x), estimator(x_adv), 256, stream(seed, "judge"))
            divergences[name].append(float(values.median()))
    print("| objective | CPU s | speed-up | median KL |")
    print("|---|---|---|---|")
    times = {name: statistics.median(values) for name, values in seconds.items()}
    slowest = times["5 fresh samples, unfrozen"]
    for name, value in times.items():
        divergence = statistics.median(divergences[name])
        print(f"| {name} | {value:.2f} | {slowest / value:.1f} | {divergence:.3f} |")


if __name__ == "__main__":
    main()
