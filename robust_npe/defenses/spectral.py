r"""Networks of bounded gain: weight matrices are projected to a bounded spectral norm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from nflows.transforms.made import MADE
from torch import Generator, Tensor, nn
from torch.func import functional_call
from typing_extensions import override

from robust_npe.checks import require_positive, require_positive_integer
from robust_npe.defenses.base import Batch, Defense
from robust_npe.estimators import Estimator
from robust_npe.estimators.conditioner import Conditioner
from robust_npe.random import stream

__all__ = ["Spectral", "constrained_layers"]

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
SETUP_ITERATIONS = 100  # from a random vector; afterwards vectors follow the weights


class Spectral(Defense):
    r"""Mean of -log q(theta|x), with |W|_2 <= gain for each layer W between x and q.

    After each step of the optimizer, a layer whose largest singular value exceeds the gain is
    divided by the excess. Singular values come from the power method, whose vectors are kept from
    one step to the next; it approaches them from below, so the bound holds up to its error, about
    a percent. Convolutions are bounded as the linear maps that they are, not by their kernels.

    All activations have slopes up to 1, so the parameters of q (mean and log width; for flows,
    those of all transforms at given inputs together) move by at most gain^layers |dx|, with x as
    the estimator standardises it. Shifts and log slopes of MAF and NSF are sums of two paths: with
    e layers in the embedding and l in each conditioner, that is gain^e (gain^l + gain) |dx|, the
    second term from the direct connections. (The networks of `sbi_nsf` multiply what they compute,
    so that no such bound holds.) Biases are free, and so are the weights that only theta passes:
    they set width and shape of q, not how these vary with x. For one affine transform whose widths
    do not vary with x, the square of the bound limits the eigenvalues of the Fisher information.

    References:
        Gouk, Frank, Pfahringer & Cree (2021), "Regularisation of neural networks by enforcing
        Lipschitz continuity", https://arxiv.org/abs/1804.04368
        Miyato, Kataoka, Koyama & Yoshida (2018), "Spectral normalization for generative
        adversarial networks", https://arxiv.org/abs/1802.05957

    Args:
        gain: Largest spectral norm of a layer, positive.
        iterations: Iterations of the power method at every step.
    """

    name = "spectral"

    def __init__(self, gain: float = 2.0, iterations: int = 1) -> None:
        require_positive("defense.gain", gain)
        require_positive_integer("defense.iterations", iterations)
        self.gain = gain
        self.iterations = iterations
        self._vectors: dict[str, Tensor] = {}

    @override
    def setup(self, estimator: Estimator, theta: Tensor, x: Tensor) -> None:
        shapes = _input_shapes(estimator, x[:1])
        self._vectors = {}
        for name, layer, mask in constrained_layers(estimator):
            generator = stream(0, "power method", name)
            start = torch.randn(shapes[name], generator=generator).to(layer.weight)
            self._vectors[name] = start / start.norm()
            for _ in range(SETUP_ITERATIONS):
                self._vectors[name], _ = power_step(layer, mask, self._vectors[name])

    @override
    def loss(self, estimator: Estimator, batch: Batch, generator: Generator) -> Tensor:
        return estimator.loss(batch.theta, batch.x)

    @override
    @torch.no_grad()
    def constrain(self, estimator: Estimator) -> None:
        for name, layer, mask in constrained_layers(estimator):
            for _ in range(self.iterations):
                vector, norm = power_step(layer, mask, self._vectors[name])
                self._vectors[name].copy_(vector)
            layer.weight.mul_((self.gain / norm).clamp(max=1.0))

    def state_dict(self) -> dict[str, Any]:
        """See `Defense.state_dict`: the vectors of the power method."""
        return {"vectors": self._vectors}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, vector in self._vectors.items():
            vector.copy_(state["vectors"][name])


def constrained_layers(estimator: Estimator) -> Iterator[tuple[str, Layer, Tensor | None]]:
    """Yield name, module, and mask of the weights (None for no mask beyond the module's own) of the
    layers between x and the parameters of q(.|x)."""
    modules = dict(estimator.named_modules())
    masks: dict[nn.Module, Tensor] = {}
    skipped: set[nn.Module | None] = set()  # what sees theta only
    for module in modules.values():
        if isinstance(module, Conditioner):
            skipped.add(module.first)
            masks |= {
                layer: getattr(module, f"mask_{i + 1}") for i, layer in enumerate(module.layers)
            }
        elif isinstance(module, MADE):
            skipped.add(module.initial_layer)
    for name, module in modules.items():
        if isinstance(module, Layer) and module not in skipped:
            yield name, module, masks.get(module)


def power_step(layer: Layer, mask: Tensor | None, vector: Tensor) -> tuple[Tensor, Tensor]:
    """Return W^T W v as a unit vector, and |W v|, for a unit vector v of the input's shape.

    Where the product is zero, as at initialisation of direct connections, v stays as it is.
    """
    with torch.enable_grad():
        v = vector.detach().requires_grad_(True)
        weight = layer.weight.detach() if mask is None else layer.weight.detach() * mask
        replaced = {"weight": weight}
        if layer.bias is not None:
            replaced["bias"] = torch.zeros_like(layer.bias)
        output = functional_call(layer, replaced, (v,))
        (product,) = torch.autograd.grad(0.5 * output.square().sum(), v)
    size = product.norm()
    return torch.where(size > 0, product / size, vector), output.detach().norm()


def _input_shapes(estimator: Estimator, x: Tensor) -> dict[str, torch.Size]:
    """Return the shape of what enters each layer for one observation `x (1, Dx)`."""
    shapes: dict[str, torch.Size] = {}
    hooks = []
    for name, layer, _ in constrained_layers(estimator):
        if isinstance(layer, nn.Linear):
            shapes[name] = torch.Size([layer.in_features])
            continue

        def note(_: nn.Module, inputs: tuple[Tensor], name: str = name) -> None:
            shapes[name] = inputs[0].shape

        hooks.append(layer.register_forward_pre_hook(note))
    with torch.no_grad():
        estimator.context(x)
    for hook in hooks:
        hook.remove()
    return shapes
