r"""Certificates of Gaussian heads: from bounds on a network's outputs to bounds on KL.

With q = N(mu, L L^T) at x and q~ = N(mu~, L~ L~^T) at x~, write

    m = L^{-1} (mu~ - mu),   I + E = L^{-1} L~,   e^{d_j} = L~_jj / L_jj = 1 + E_jj,

and N for what is below the diagonal of E. With g(d) = (e^{2 d} - 1 - 2 d) / 2,

    KL(q~ || q) = |m|^2 / 2 + |N|^2 / 2 + sum_j g(d_j),
    KL(q || q~) = |(I + E)^{-1} m|^2 / 2 + |(I + E)^{-1} N e^{-d}|^2 / 2 + sum_j g(-d_j).

Both are at most squared norms of forms that are linear in what the network puts out, which
`Relaxation.squared_norm` bounds jointly: a sum of separate bounds for all coordinates would be
several times larger. The factor (I + E)^{-1} is e^{-d} for a diagonal L; else, since N e^{-d} is
strictly triangular, its spectral norm is at most max_j e^{-d_j} sum_{k<D} |N e^{-d}|^k.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from robust_npe.certificates.crown import Layer, Relaxation, relaxed
from robust_npe.certificates.region import Region
from robust_npe.estimators import MLP, DiagonalGaussian, Estimator, FullGaussian, Identity
from robust_npe.estimators.gaussian import LOG_STD_LIMIT
from robust_npe.estimators.univariate import soft_clip

__all__ = ["affine_layers", "diagonal_kl", "full_kl", "unbent"]

SLACK = 1e-8  # relative; float64 is wrong by less
SERIES = 1e-3  # below, g(d) / d^2 suffers from cancellation


def affine_layers(estimator: Estimator) -> list[Layer] | None:
    """Return the linear layers from what `unbent` returns to the parameters of a Gaussian head,
    with a ReLU between any two, in float64; None if there is anything else on the way."""
    embedding, head = estimator.embedding, estimator.head
    if type(head) not in (DiagonalGaussian, FullGaussian) or type(embedding) not in (Identity, MLP):
        return None
    nets = [cast(Any, part).net for part in (embedding, head) if hasattr(part, "net")]
    weight = (1 / estimator.standardize.least_unit.double()).diag()
    bias = weight.new_zeros(len(weight))
    layers: list[Layer] = []
    for module in chain(*nets):
        if isinstance(module, nn.Linear):
            matrix = module.weight.detach().double()
            weight, bias = matrix @ weight, matrix @ bias + module.bias.detach().double()
        elif isinstance(module, nn.ReLU):
            layers.append((weight, bias))
            weight, bias = torch.eye(len(bias)).to(weight), torch.zeros_like(bias)
        else:
            return None
    return [*layers, (weight, bias)]


def unbent(estimator: Estimator, x: Tensor) -> Tensor:
    """Return what a linear standardisation would take to the same z as `x (B, Dx)`, in float64.

    Standardisations are increasing in each feature, and steepest where they are linear. So a change
    delta of x changes z as some change of this does that lies, in each feature, between zero and
    delta; and is in every ball and box that has delta in it.
    """
    standardize = estimator.standardize
    return standardize(x.double()) * standardize.least_unit.double()


def diagonal_kl(layers: list[Layer], x: Tensor, region: Region) -> tuple[Tensor, Tensor]:
    """Bound KL(q(.|x) || q(.|x~)) and KL(q(.|x~) || q(.|x)) of a `DiagonalGaussian`.

    The smaller one of two bounds: jointly over all coordinates, and the sum of the largest value
    of each coordinate's part over the intervals of its mean and log standard deviation, which is
    better where those are wide.

    Args:
        layers: From `affine_layers`.
        x: From `unbent`, shape `(B, Dx)`.
        region: The perturbations.

    Returns:
        Bounds of shape `(B,)`, in nats.
    """
    values, relaxation = relaxed(layers, x, region)
    low, high = relaxation.bounds(region)
    (_, raw), (m_low, raw_low), (m_high, raw_high) = (v.chunk(2, -1) for v in (values, low, high))
    std = soft_clip(raw, LOG_STD_LIMIT).exp()
    ratio = _log_ratio(raw, raw_low, raw_high)
    square = (torch.maximum(-m_low, m_high) / std).square() / 2

    def bound(h_low: Tensor, h_high: Tensor, power: int) -> Tensor:
        """Bound the sum of e^(power h) m^2 / 2 + g(h) over the coordinates."""
        width = (power * h_high / 2).exp() / (math.sqrt(2) * std)
        rows = torch.cat([width, _curvature(h_high).sqrt() * ratio.steepest], dim=-1)
        joint = relaxation.scaled(rows).squared_norm(region)
        ends = [(power * h).exp() * square + _excess(h) for h in (h_low, h_high)]  # convex in h
        return torch.minimum(joint, torch.maximum(*ends).sum(-1)) * (1 + SLACK)

    return bound(-ratio.high, -ratio.low, 2), bound(ratio.low, ratio.high, 0)


def full_kl(layers: list[Layer], x: Tensor, region: Region) -> tuple[Tensor, Tensor]:
    """Bound KL(q(.|x) || q(.|x~)) and KL(q(.|x~) || q(.|x)) of a `FullGaussian`.

    Arguments and results as for `diagonal_kl`.
    """
    values, relaxation = relaxed(layers, x, region)
    dim = round((math.sqrt(9 + 8 * values.shape[-1]) - 3) / 2)  # D + D (D + 1) / 2 outputs
    low, high = (bound[:, dim : 2 * dim] for bound in relaxation.bounds(region))
    ratio = _log_ratio(values[:, dim : 2 * dim], low, high)
    lifted = _with_scale_changes(relaxation, ratio, torch.maximum(-low, high))
    inverse, relative = _relative_changes(values, dim)
    m, raw = lifted.rows(0, dim).map(inverse), lifted.rows(-dim, None)
    below = lifted.rows(dim, -dim).map(relative)
    columns = torch.tril_indices(dim, dim, offset=-1)[1]
    shrunk = below.scaled((-ratio.low).exp()[:, columns])
    size = shrunk.squared_norm(region).sqrt().unsqueeze(-1)
    series = sum((size**k for k in range(dim)), start=torch.zeros_like(size))
    inverse_norm = (-ratio.low).exp().amax(-1, keepdim=True) * series

    def bound(linear: Relaxation, factor: Tensor, h_high: Tensor) -> Tensor:
        linear = linear.scaled((factor / math.sqrt(2)).expand_as(linear.offset))
        curved = raw.scaled(_curvature(h_high).sqrt() * ratio.steepest)
        return linear.joined(curved).squared_norm(region) * (1 + SLACK)

    forward = bound(m.joined(shrunk), inverse_norm, -ratio.low)
    return forward, bound(m.joined(below), torch.ones_like(size), ratio.high)


class _LogRatio(NamedTuple):
    """d = log std~ - log std by the outputs of the network; each `(B, D)`.

    Attributes:
        low: Smallest d, not positive.
        high: Largest d, not negative.
        flattest: Smallest derivative of the log std with respect to the output.
        steepest: Largest derivative, at most 1.
    """

    low: Tensor
    high: Tensor
    flattest: Tensor
    steepest: Tensor


def _log_ratio(raw: Tensor, low: Tensor, high: Tensor) -> _LogRatio:
    """Return what is known of d where outputs `raw` change by low to high."""
    ends = torch.stack([raw + low, raw + high])
    d_low, d_high = soft_clip(ends, LOG_STD_LIMIT) - soft_clip(raw, LOG_STD_LIMIT)
    farthest = ends.abs().amax(0)
    nearest = torch.where(ends.prod(0) <= 0, 0.0, ends.abs().amin(0))
    slopes = [(1 + size / LOG_STD_LIMIT) ** -2 for size in (farthest, nearest)]
    return _LogRatio(d_low.clamp(max=0), d_high.clamp(min=0), *slopes)


def _excess(h: Tensor) -> Tensor:
    """g(h) = (e^(2 h) - 1 - 2 h) / 2."""
    return (torch.expm1(2 * h) - 2 * h) / 2


def _curvature(high: Tensor) -> Tensor:
    """Bound g(h) / h^2, which increases, over h <= high."""
    return torch.where(high < SERIES, 1 + high, _excess(high) / high.clamp(min=SERIES).square())


def _with_scale_changes(relaxation: Relaxation, ratio: _LogRatio, largest: Tensor) -> Relaxation:
    """Replace the outputs for the diagonal of L by e^d - 1, and append them at the end.

    By the mean value theorem, e^d - 1 is the change of the output times a slope from
    e^d_low flattest to e^d_high steepest, of which the mean is taken.
    """
    least, most = ratio.low.exp() * ratio.flattest, ratio.high.exp() * ratio.steepest
    middle, spread = (most + least) / 2, (most - least) / 2
    dim = largest.shape[-1]
    ones = torch.ones_like(relaxation.offset)
    outputs = relaxation.scaled(torch.cat([ones[:, :dim], middle, ones[:, 2 * dim :]], dim=-1))
    lifted = outputs.joined(relaxation.rows(dim, 2 * dim))
    own = torch.nn.functional.pad(
        (spread * largest).diag_embed(), (0, 0, dim, lifted.offset.shape[-1] - 2 * dim)
    )
    return lifted._replace(error=torch.cat([lifted.error, own], dim=-1))


def _relative_changes(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return L^{-1}, shape `(B, D, D)`, and the matrix that makes N, row by row, from e^d - 1 and
    the changes of L below its diagonal, `(B, D (D - 1) / 2, D (D + 1) / 2)`."""
    rows, columns = torch.tril_indices(dim, dim, offset=-1, device=values.device)
    std = soft_clip(values[:, dim : 2 * dim], LOG_STD_LIMIT).exp()
    scale = std.diag_embed()
    scale[:, rows, columns] = values[:, 2 * dim :]
    units = scale.new_zeros(len(scale), dim + len(rows), dim, dim)
    diagonal = torch.arange(dim)
    units[:, diagonal, diagonal, diagonal] = std
    units[:, dim + torch.arange(len(rows)), rows, columns] = 1
    changes = torch.linalg.solve_triangular(scale.unsqueeze(1), units, upper=False)
    identity = torch.eye(dim, dtype=scale.dtype, device=scale.device)
    inverse = torch.linalg.solve_triangular(scale, identity.expand_as(scale), upper=False)
    return inverse, changes[:, :, rows, columns].mT
