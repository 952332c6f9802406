"""State dictionaries: nested dictionaries of tensors, numbers, booleans, texts, and lists of these,
which every owner of a state gives and takes over, as in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from robust_npe.checks import ConfigError

__all__ = ["Stateful", "adam", "check_form", "numbered", "take_over"]


class Stateful(Protocol):
    """Owns something that changes. On one that was newly made from equal arguments,
    `load_state_dict` takes over what `state_dict` gave."""

    def state_dict(self) -> dict[str, Any]:
        """Return all of it; its keys, types and shapes are the same from the start."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""


def numbered(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return a list of tensors as a state dictionary; they are not copied."""
    return {str(number): tensor for number, tensor in enumerate(tensors)}


@torch.no_grad()
def take_over(tensors: Sequence[Tensor], state: Mapping[str, Tensor]) -> None:
    """Copy what `numbered` returned into tensors."""
    for name, tensor in numbered(tensors).items():
        tensor.copy_(state[name])


def _plain(method: Callable[..., Any]) -> Callable[..., Any]:
    return getattr(method, "__wrapped__", method)


class _Adam(torch.optim.Adam):
    """Adam as it is, without the decorators that import torch's compiler, which takes a second."""

    add_param_group = _plain(torch.optim.Optimizer.add_param_group)
    zero_grad = _plain(torch.optim.Optimizer.zero_grad)
    state_dict = _plain(torch.optim.Optimizer.state_dict)
    load_state_dict = _plain(torch.optim.Optimizer.load_state_dict)
    step = torch.no_grad()(_plain(torch.optim.Adam.step))


def adam(
    parameters: Iterable[Tensor], learning_rate: float, fused: bool | None = None
) -> torch.optim.Adam:
    """Return Adam with the moments that it would make at its first step: they can be loaded."""
    optimizer = _Adam(parameters, lr=learning_rate, fused=fused)
    for p in optimizer.param_groups[0]["params"]:
        device = p.device if fused else torch.device("cpu")
        optimizer.state[p] = {
            "step": torch.zeros((), dtype=torch.float32, device=device),
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.zeros_like(p),
        }
    return optimizer


def check_form(state: Any, expected: Any, where: str) -> None:
    """Raise a `ConfigError` unless keys, types and shapes are as expected.

    Args:
        state: What is to be taken over.
        expected: A state dictionary of the one that is to take it over.
        where: What it is, for the message.
    """
    difference = ""
    if isinstance(state, Mapping) and isinstance(expected, Mapping):
        if keys := sorted(map(str, state.keys() ^ expected.keys())):
            difference = f"the keys {', '.join(keys[:3])} are missing or unknown"
    elif _form(state) != _form(expected):
        difference = f"it is {_form(state)} instead of {_form(expected)}"
    if difference:
        raise ConfigError(f"{where} is not one of this estimator, defense and data: {difference}.")
    if isinstance(expected, Mapping):
        for key, value in expected.items():
            check_form(state[key], value, f"{where}.{key}")


def _form(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    if isinstance(value, list):  # of any length
        return f"a list of {' and '.join({type(v).__name__ for v in value} or {'float'})}"
    return f"a {type(value).__name__}"
