"""Defended training inside sbi: a builder for `NPE(density_estimator=...)`.

    builder = rn.integrations.sbi.defended("maf", rn.defenses.FIM(beta=0.01))
    inference = NPE(prior, density_estimator=builder)
    inference.append_simulations(theta, x).train()
    posterior = inference.build_posterior()

sbi's own loop follows the loss of the defense; the posterior holds a plain net of sbi, which can be
pickled, and loaded where robust-npe is not installed.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any, cast

import torch
from sbi.neural_nets import posterior_nn
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

from robust_npe.adapters.sbi import density
from robust_npe.checks import ConfigError, require
from robust_npe.defenses import Batch, Defense
from robust_npe.defenses.penalty import Penalized
from robust_npe.posterior import differentiated_scores
from robust_npe.random import stream

__all__ = ["defended"]

log = logging.getLogger(__name__)

MIXTURES = ("mdn", "made")  # models whose samples are no smooth function of noise

Builder = Callable[[Tensor, Tensor], nn.Module]


def defended(
    density_estimator: str | Builder, defense: Defense, seed: int = 0, **settings: Any
) -> Builder:
    """Return a builder of a density estimator that sbi's `NPE` trains with a defense.

    Only the first round is defended: the proposal correction of later rounds knows no defense, and
    a warning says so.

    Args:
        density_estimator: A model of `sbi.neural_nets.posterior_nn`, e.g. `maf`, `nsf`, or
            `zuko_nsf`; or a builder that maps theta `(N, D)` and x `(N, ...)` to an estimator.
        defense: The training objective. A penalty such as `FIM` needs reparameterised samples,
            which `mdn` and `made`, mixtures of Gaussians, do not have.
        seed: Seed of what the defense draws; each validation draws the same numbers.
        settings: Further arguments of `posterior_nn`.

    Raises:
        ConfigError: The defense trains several nets, or does its work after training, or the model
            has not what it needs; when training begins: there is no such model.
    """
    require(isinstance(defense, Defense), "defense", defense, "an object of class Defense")
    after = type(defense).deploy is not Defense.deploy or defense.num_members > 1
    expected = "one that trains a single net; apply the others to the trained posterior"
    require(not after, "defense", defense.name, expected)
    if isinstance(density_estimator, str):
        samples = density_estimator not in MIXTURES or not isinstance(defense, Penalized)
        expected = f"a flow such as maf: {defense.name} needs reparameterised samples"
        require(samples, "density_estimator", density_estimator, expected)
        build: Builder = _named(density_estimator, settings)
    else:
        require(not settings, "settings", sorted(settings), "left out for a builder")
        build = density_estimator

    def builder(theta: Tensor, x: Tensor) -> nn.Module:
        net = build(theta, x).eval()  # until sbi's loop says train(), see `_Defended.log_prob`
        plain = type(net)
        net.__class__ = type(f"Defended{plain.__name__}", (_Defended, plain), {"_plain": plain})
        net.__dict__["_training"] = _DefendedLoss(net, copy.deepcopy(defense), theta, x, seed)
        return net

    return builder


def _named(model: str, settings: dict[str, Any]) -> Builder:
    build: Builder = posterior_nn(model, **settings)

    def builder(theta: Tensor, x: Tensor) -> nn.Module:
        try:
            return build(theta, x)
        except NotImplementedError as error:
            raise ConfigError(
                f"density_estimator={model!r} is not valid: it must be a model of "
                f"sbi.neural_nets.posterior_nn ({error})."
            ) from error

    return builder


class _Defended:
    """What is put in front of the class of an estimator while it is trained: its loss."""

    _plain: type
    _training: _DefendedLoss

    def loss(self, input: Tensor, condition: Tensor) -> Tensor:
        """Return the loss of the defense, `(B,)`, whose mean sbi minimises."""
        return self._training(input, condition)

    def log_prob(self, input: Tensor, condition: Tensor) -> Tensor:
        """Return log densities. In training, only sbi's later rounds call this."""
        if self.training and torch.is_grad_enabled():  # type: ignore[attr-defined]
            self._training.warn()
        return super().log_prob(input, condition)  # type: ignore[misc]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies, pickled ones too, are of sbi's own class, and know nothing of the defense."""
        state = {name: value for name, value in vars(self).items() if name != "_training"}
        return object.__new__, (self._plain,), state


class _DefendedLoss:
    """A defense at work in sbi's loop, which says by train() and eval() where it is."""

    def __init__(
        self, net: nn.Module, defense: Defense, theta: Tensor, x: Tensor, seed: int
    ) -> None:
        self.net = net
        self.defense = defense
        self.seed = seed
        self.estimator = cast(Any, _Facade(net))
        self.generator = stream(seed, "train")
        self.epoch = 0
        self.validated = 0  # batches of this epoch's validation
        self.warned = False
        defense.setup(self.estimator, theta, x.flatten(1))

    def __call__(self, theta: Tensor, x: Tensor) -> Tensor:
        batch = Batch(theta, x.flatten(1), epoch=self.epoch)
        with torch.no_grad():
            self.defense.constrain(self.estimator)  # after the step that came before
        self.estimator.rows = None
        if self.net.training:
            self.epoch += self.validated > 0
            self.validated = 0
            loss = self.defense.loss(self.estimator, batch, self.generator)
        else:
            generator = stream(self.seed, "validation", self.validated)
            self.validated += 1
            loss = self.defense.validation_loss(self.estimator, batch, generator)
        rows = self.estimator.rows
        # one number for each row, for sbi may weigh them (`calibration_kernel`)
        return loss.expand(len(theta)) if rows is None else rows + (loss - rows.mean())

    def warn(self) -> None:
        if not self.warned:
            message = "only the first round of sbi's training is defended: defense=%s stops here"
            log.warning(message, self.defense.name)
        self.warned = True


class _Facade:
    """A net of sbi with what defenses ask of an `Estimator`."""

    score_method = "inverted"

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.rows: Tensor | None = None  # -log q of the batch, where the defense asked for it

    def __call__(self, x: Tensor) -> Distribution:
        return density(self.net, x)

    def loss(self, theta: Tensor, x: Tensor, q: Distribution | None = None) -> Tensor:
        """See `Estimator.loss`."""
        rows = -(self(x) if q is None else q).log_prob(theta)
        self.rows = rows if self.rows is None else self.rows
        return rows.mean()

    def scores(self, x: Tensor, num_samples: int, generator: Generator, attached: bool) -> Tensor:
        """See `Estimator.scores`."""
        return differentiated_scores(self, x, num_samples, generator, attached)

    def parameters(self) -> Any:
        """See `nn.Module.parameters`."""
        return self.net.parameters()

    def named_modules(self) -> Any:
        """See `nn.Module.named_modules`."""
        return self.net.named_modules()

    def __getattr__(self, name: str) -> Any:
        raise ConfigError(
            f"this defense needs the `{name}` of an estimator of robust-npe, which sbi's nets do "
            "not have: use another one, such as FIM or TRADES, or rn.train."
        )
