"""What is wrong with the jobs of a sweep, told in its first seconds rather than hours later."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from omegaconf import DictConfig, open_dict

from robust_npe.sweeps.watch import SweepStarted

__all__ = ["check_jobs"]


def check_jobs(
    load: Callable[[list[str]], DictConfig], batch: Sequence[list[str]], first: int = 0
) -> None:
    """Compose all jobs, and tell which trainings have wrong settings.

    These stop no other job: of all combinations of several values, some may not go together.

    Args:
        load: Composes a job from its overrides; raises what is wrong for Hydra.
        batch: The overrides of each job.
        first: Number of the first of them.
    """
    for number, words in enumerate(batch, first):
        config = load(words)
        if config.hydra.job.name != "train":
            continue
        error = _wrong(config)
        if error and SweepStarted.watch is not None:
            SweepStarted.watch.foretell(number, words, error)


def _wrong(config: DictConfig) -> str:
    """Return what is wrong with a training, which is built and not started; "" if nothing is."""
    from robust_npe.commands.experiment import Experiment  # slow to import

    with open_dict(config):
        del config["hydra"]
    config.device = "cpu"  # that of the job may be on another machine
    try:
        with _silence():  # the job itself will say it
            Experiment(config)
    except Exception as error:  # noqa: BLE001  # whatever it is, the job will fail of it
        return " ".join(str(error).split())
    return ""


@contextmanager
def _silence() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
