"""The radii of an audit, and what they are in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from robust_npe.attacks import AutoUnit, Ball, ThreatModel
from robust_npe.checks import require

__all__ = ["checked_radii", "unit_text"]


def checked_radii(radii: Sequence[float]) -> list[float]:
    """Return the radii in ascending order; 0 is x itself, which is looked at anyway."""
    positive = sorted(radius for radius in radii if radius > 0)
    require(len(positive) > 0, "epsilon", list(radii), "a positive number or several")
    return positive


def unit_text(
    threat: ThreatModel,
    unit: AutoUnit | None,
    radii: Sequence[float],
    x_names: Sequence[str],
    ball: Callable[[float | Tensor], Ball],
) -> str:
    """Say what a radius is, and how far it lets a single feature move, in units of x."""
    from robust_npe.plotting.names import NORMS, UNITS  # imports matplotlib, which is slow

    if unit is not None:
        return f"{NORMS[threat.norm]}; {unit.text(radii, x_names)}"
    one = ball(1.0)
    scale = torch.ones(len(x_names)) if one.scale is None else one.scale.cpu()
    shown = AutoUnit("given", scale, float(one.radius))
    moves = "; ".join(f"epsilon={r:g}: {shown.moves(r, x_names)}" for r in radii)
    return (
        f"{NORMS[threat.norm]}; epsilon is in {UNITS[threat.epsilon_unit]}. A single feature moves "
        f"by at most: {moves}"
    )
