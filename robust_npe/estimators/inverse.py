"""The inverse of an autoregressive transform, and its derivative.

The inverse goes through the coordinates group by group. At each one, only the hidden units that
could not be known before are computed, so all groups together cost one forward pass. The backward
pass is written by hand in the same way, from the implicit function theorem: for z = f(theta; phi),
dtheta = J^{-1} (dz - df/dphi dphi) with the triangular Jacobian J = df/dtheta. It cannot be
differentiated again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from robust_npe.estimators.conditioner import BoundConditioner
from robust_npe.estimators.univariate import Univariate

__all__ = ["invert", "solve"]


def invert(net: BoundConditioner, univariate: Univariate, z: Tensor) -> Tensor:
    """Return theta with f(theta) = z for `z (D, N)`, differentiable once."""
    return _Inverse.apply(net, univariate, z, net.context_term, *net.weights, *net.biases)


@torch.no_grad()
def solve(
    net: BoundConditioner, univariate: Univariate, z: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return theta with f(theta) = z, log df_i/dtheta_i, both `(D, N)`, and all activations."""
    columns = z.shape[1]
    first = net.context_term.repeat(1, columns // net.context_term.shape[1])
    layers = [first, *(bias.repeat(1, columns) for bias in net.biases)]
    theta, log_slope = torch.empty_like(z), torch.empty_like(z)
    for coordinates, *rows in net.blocks.slices:
        known = theta[: coordinates.start]
        for i, new in enumerate(rows):
            block = layers[i][new]
            block.addmm_(net.weights[i][new, : known.shape[0]], known)
            if i + 1 < len(rows):
                block.relu_()
                known = layers[i][: new.stop]
        theta[coordinates], log_slope[coordinates] = univariate.inverse(
            z[coordinates], net.unpack(layers[-1][rows[-1]])
        )
    return theta, log_slope, layers


class _Inverse(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, net: BoundConditioner, univariate: Univariate, z: Tensor, *tensors: Tensor
    ) -> Tensor:
        theta, _, layers = solve(net, univariate, z)
        ctx.settings = net.blocks, net.num_parameters, univariate
        ctx.save_for_backward(theta, *layers, *tensors)
        return theta

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_theta: Tensor) -> tuple[Tensor | None, ...]:
        blocks, num_parameters, univariate = ctx.settings
        depth = len(blocks.ends) - 1
        theta, *saved = ctx.saved_tensors
        layers, context_term, tensors = saved[:depth], saved[depth], saved[depth + 1 :]
        net = BoundConditioner(
            context_term, tensors[:depth], tensors[depth:], blocks, num_parameters
        )
        grad_z, gradients = _pull_back(net, univariate, theta, layers, grad_theta)
        return None, None, grad_z, *_gradients(net, theta, layers, gradients)


def _pull_back(
    net: BoundConditioner,
    univariate: Univariate,
    theta: Tensor,
    layers: list[Tensor],
    grad_theta: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    """Return the gradients with respect to z and to the layers before their nonlinearity.

    Backwards through the groups: the gradient of a group's theta is complete once all later
    groups have passed on what they depend on.
    """
    slope, slope_phi = univariate.derivatives(theta, net.unpack(layers[-1]))
    pull = -slope_phi
    grad_theta, grad_z = grad_theta.clone(), torch.empty_like(theta)
    gradients = [torch.zeros_like(layer) for layer in layers]
    active = [(layer > 0).to(theta.dtype) for layer in layers[:-1]]
    for coordinates, *rows in reversed(net.blocks.slices):
        new_z = grad_z[coordinates]
        torch.div(grad_theta[coordinates], slope[coordinates], out=new_z)
        outputs = net.unpack(gradients[-1][rows[-1]])
        torch.mul(pull[:, coordinates], new_z, out=outputs)
        for i in range(len(layers) - 1, 0, -1):
            new, seen = rows[i], rows[i - 1]
            below = gradients[i - 1][: seen.stop]
            below.addmm_(net.weights[i][new, : seen.stop].T, gradients[i][new])
            gradients[i - 1][seen].mul_(active[i - 1][seen])
        weight = net.weights[0][rows[0], : coordinates.start]
        grad_theta[: coordinates.start].addmm_(weight.T, gradients[0][rows[0]])
    return grad_z, gradients


def _gradients(
    net: BoundConditioner, theta: Tensor, layers: list[Tensor], gradients: list[Tensor]
) -> list[Tensor]:
    """Return the gradients with respect to context term, weights and biases."""
    inputs = [theta[: net.weights[0].shape[1]], *layers[:-1]]
    return [
        gradients[0].unflatten(1, (-1, net.context_term.shape[1])).sum(1),
        *(gradient @ below.T for gradient, below in zip(gradients, inputs, strict=True)),
        *(gradient.sum(1, keepdim=True) for gradient in gradients[1:]),
    ]
