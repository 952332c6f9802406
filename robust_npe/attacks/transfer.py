"""Transfer: an attack on one posterior, found on another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from torch import Generator, Tensor

from robust_npe.attacks.balls import Ball
from robust_npe.attacks.base import Attack, Found
from robust_npe.attacks.objectives import Objective
from robust_npe.checks import ConfigError
from robust_npe.posterior import Posterior

__all__ = ["Transfer"]


class Transfer(Attack):
    """Searches on another posterior (the source) and returns what misleads that one: for an
    adversary who does not know the posterior, and where its gradients are of no use.

    References:
        Papernot, McDaniel & Goodfellow (2016), "Transferability in machine learning: from phenomena
        to black-box attacks using adversarial samples", https://arxiv.org/abs/1605.07277

    Args:
        attack: How to search on the source.
        run: Id or folder of the run that the source is from; None where it is given otherwise.

    Attributes:
        source: The posterior that is searched on. The command line loads that of `run`; in Python,
            set it, or use `from_posterior`.
    """

    name = "transfer"

    def __init__(self, attack: Attack, run: str | None = None) -> None:
        self.attack = attack
        self.run = run
        self.source: Posterior | None = None

    @classmethod
    def from_posterior(cls, source: Posterior, attack: Attack) -> Self:
        """Return the transfer of what an attack finds on a posterior."""
        transfer = cls(attack)
        transfer.source = source
        return transfer

    @property
    def objective(self) -> Objective | None:
        """What is climbed on the source, where there is one objective."""
        return getattr(self.attack, "objective", None)

    def load_sources(self, load: Callable[[str], Posterior]) -> None:
        """Load the posterior of the run; see `Attack.load_sources`."""
        if self.source is None:
            if self.run is None:
                raise ConfigError(
                    "attack.run is not set: attack.run=<id of a run, or its folder>, whose "
                    "posterior the attack is searched on."
                )
            self.source = load(self.run)
        super().load_sources(load)

    def search(
        self,
        posterior: Posterior,
        x: Tensor,
        theta: Tensor | None,
        ball: Ball,
        generator: Generator,
    ) -> Found:
        """Search on the source; arguments as for `Attack.search`.

        Raises:
            ConfigError: There is none.
        """
        if self.source is None:
            raise ConfigError(
                "a transfer has no source: Transfer.from_posterior(source, attack), or set its "
                "attribute `source`."
            )
        return self.attack.search(self.source, x, theta, ball, generator)
