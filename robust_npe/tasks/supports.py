"""Supports of priors: sets of vectors, as every other part of the package expects them."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import Constraint

from robust_npe.checks import ConfigError

__all__ = ["vector_support"]

INDEPENDENT = type(constraints.real_vector)
MIXTURE = constraints.MixtureSameFamilyConstraint
CAT = type(constraints.cat([constraints.real]))
STACK = type(constraints.stack([constraints.real]))


def vector_support(support: Constraint, dim: int, owner: str) -> Constraint:
    """Return a support of vectors `(*, D)` in the one form whose `check` has the shape `(*,)`:
    `independent(c, 1)`, where c constrains each parameter on its own.

    torch's `cat` and `stack`, alone or inside of others, become one `cat` along the last dimension.

    Args:
        support: Support of a prior with event shape `(D,)`.
        dim: Number of parameters D.
        owner: Whose it is, for messages.

    Raises:
        ConfigError: Parameters are discrete, or constrained together as on a simplex.
    """
    parts = _parts(support, dim, owner)
    total = sum(length for _, length in parts)
    if total != dim:
        raise ConfigError(f"{owner}: its support has {total} parameters, its prior {dim}.")
    if len(parts) > 1:
        cat = constraints.cat([c for c, _ in parts], dim=-1, lengths=[n for _, n in parts])
        return constraints.independent(cat, 1)
    (only, _) = parts[0]
    as_expected = isinstance(support, INDEPENDENT) and support.base_constraint is only
    return support if as_expected else constraints.independent(only, 1)


def _parts(support: Constraint, length: int, owner: str) -> list[tuple[Constraint, int]]:
    """Return constraints of single numbers, and how many parameters in a row each is for."""
    if isinstance(support, INDEPENDENT | MIXTURE):
        return _parts(support.base_constraint, length, owner)
    if isinstance(support, CAT | STACK):
        lengths = support.lengths if isinstance(support, CAT) else [1] * len(support.cseq)
        pairs = zip(support.cseq, lengths, strict=True)
        return [part for c, n in pairs for part in _parts(c, n, owner)]
    if not _constrains_single_numbers(support):
        raise ConfigError(
            f"{owner}: parameters with the support {type(support).__name__.strip('_')} cannot be "
            "estimated: each must be a continuous number by itself, on the real line, a half-line "
            "or an interval."
        )
    for bound in vars(support).values():
        if isinstance(bound, Tensor) and bound.numel() > 1 and bound.shape != (length,):
            shapes = f"{tuple(bound.shape)}, expected () or ({length},)"
            raise ConfigError(f"{owner}: a bound of its support has the shape {shapes}.")
    return [(support, length)]


def _constrains_single_numbers(support: Constraint) -> bool:
    try:
        biject_to(support)
        return support.event_dim == 0 and not support.is_discrete
    except NotImplementedError:
        return False
