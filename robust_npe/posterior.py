"""The ground floor: an amortized posterior is anything that maps x to a distribution over theta."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.distributions import Distribution

__all__ = ["Posterior"]

Posterior = Callable[[Tensor], Distribution]
"""Maps observations x `(B, Dx)` to a distribution over theta with batch shape `(B,)`: an estimator,
an exact posterior, a flow of another library, a plain function."""
