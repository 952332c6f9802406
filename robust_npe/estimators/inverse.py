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

from robust_npe.estimators.activation import slope_of, smooth_relu
from robust_npe.estimators.conditioner import NUM_DIRECT, BoundConditioner
from robust_npe.estimators.univariate import Univariate

__all__ = ["invert", "solve"]


def invert(net: BoundConditioner, univariate: Univariate, z: Tensor) -> Tensor:
    """Return theta with f(theta) = z for `z (D, N)`, differentiable once."""
    tensors = net.context_term, net.direct_term, net.direct, *net.weights, *net.biases
    return _Inverse.apply(net, univariate, z, *tensors)


@torch.no_grad()
def solve(
    net: BoundConditioner, univariate: Univariate, z: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return theta with f(theta) = z, log df_i/dtheta_i, both `(D, N)`, and all activations, of
    the last layer with direct connections."""
    columns = z.shape[1]
    copies = columns // net.context_term.shape[1]
    direct = net.direct_term.repeat(1, copies)
    layers = [net.context_term.repeat(1, copies), *(b.repeat(1, columns) for b in net.biases)]
    theta, log_slope = torch.empty_like(z), torch.empty_like(z)
    for coordinates, *rows in net.blocks.slices:
        known = theta[: coordinates.start]
        for i, new in enumerate(rows):
            block = layers[i][new]
            block.addmm_(net.weights[i][new, : known.shape[0]], known)
            if i + 1 < len(rows):
                block.copy_(smooth_relu(block))
                known = layers[i][: new.stop]
        phi = net.unpack(layers[-1][rows[-1]])
        own, known = _directed(coordinates), theta[: coordinates.start]
        seen = direct[own].addmm_(net.direct[own, : known.shape[0]], known)
        phi[:NUM_DIRECT] += seen.unflatten(0, (-1, NUM_DIRECT)).transpose(0, 1)
        theta[coordinates], log_slope[coordinates] = univariate.inverse(z[coordinates], phi)
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
        layers, first, tensors = saved[:depth], saved[depth : depth + 3], saved[depth + 3 :]
        weights, biases = tensors[:depth], tensors[depth:]
        net = BoundConditioner(
            first[0], first[1], first[2], weights, biases, blocks, num_parameters
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
    slopes = [slope_of(layer) for layer in layers[:-1]]
    for coordinates, *rows in reversed(net.blocks.slices):
        new_z = grad_z[coordinates]
        torch.div(grad_theta[coordinates], slope[coordinates], out=new_z)
        outputs = net.unpack(gradients[-1][rows[-1]])
        torch.mul(pull[:, coordinates], new_z, out=outputs)
        for i in range(len(layers) - 1, 0, -1):
            new, seen = rows[i], rows[i - 1]
            below = gradients[i - 1][: seen.stop]
            below.addmm_(net.weights[i][new, : seen.stop].T, gradients[i][new])
            gradients[i - 1][seen].mul_(slopes[i - 1][seen])
        known, own = grad_theta[: coordinates.start], _directed(coordinates)
        known.addmm_(net.weights[0][rows[0], : coordinates.start].T, gradients[0][rows[0]])
        known.addmm_(net.direct[own, : coordinates.start].T, _direct_rows(outputs))
    return grad_z, gradients


def _gradients(
    net: BoundConditioner, theta: Tensor, layers: list[Tensor], gradients: list[Tensor]
) -> list[Tensor]:
    """Return the gradients with respect to both terms, direct weights, weights and biases."""
    batch, known = net.context_term.shape[1], theta[: net.weights[0].shape[1]]
    direct, inputs = _direct_rows(net.unpack(gradients[-1])), [known, *layers[:-1]]
    return [
        *(part.unflatten(1, (-1, batch)).sum(1) for part in (gradients[0], direct)),
        direct @ known.T,
        *(gradient @ below.T for gradient, below in zip(gradients, inputs, strict=True)),
        *(gradient.sum(1, keepdim=True) for gradient in gradients[1:]),
    ]


def _directed(coordinates: slice) -> slice:
    """Return the rows of direct connections of some coordinates."""
    return slice(NUM_DIRECT * coordinates.start, NUM_DIRECT * coordinates.stop)


def _direct_rows(outputs: Tensor) -> Tensor:
    """Return shifts and log slopes among parameters `(P, n, N)`: `(2 n, N)`."""
    return outputs[:NUM_DIRECT].transpose(0, 1).flatten(0, 1)
