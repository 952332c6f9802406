"""Torch modules whose forward pass is a distribution, such as the flows of zuko."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

__all__ = ["ModulePosterior", "like_weights"]


def like_weights(x: Tensor, module: nn.Module) -> Tensor:
    """Return x with the precision and on the device of the weights of a module; differentiable."""
    weights = (p for p in module.parameters() if p.is_floating_point())
    weight = next(weights, None)
    x = torch.as_tensor(x)
    return x if weight is None else x.to(weight)


class ModulePosterior(nn.Module):
    """A module as a posterior, in evaluation mode; x may have another precision than the weights.

    Args:
        module: What is audited.
        function: Maps the module and x to a distribution; None to call the module.
    """

    def __init__(
        self, module: nn.Module, function: Callable[[Any, Tensor], Distribution] | None = None
    ) -> None:
        super().__init__()
        self.module = module.eval()
        self.function = function

    def forward(self, x: Tensor) -> Distribution:
        """Return q(.|x) for `x (B, Dx)`."""
        x = like_weights(x, self.module)
        return self.module(x) if self.function is None else self.function(self.module, x)
