"""How observations are drawn: lines and predictive bands against time, and images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_image", "draw_trace"]

BANDS = ((0.01, 0.99), (0.05, 0.95), (0.175, 0.825))


def draw_trace(axes: Axes, time: Tensor, x: Tensor, **style: Any) -> None:
    """Draw one trace `(T,)` as a line, or samples of it `(S, T)` as median and three bands.

    The bands hold 98, 90 and 65 percent of the samples, as in the paper's figures.

    Args:
        axes: Where to draw.
        time: Times of the points, shape `(T,)`.
        x: One trace or samples of traces.
        style: Passed to `axes.plot`; `color` and `alpha` also shape the bands.
    """
    values = torch.as_tensor(x).detach().cpu().double().numpy()
    if values.ndim == 1:
        axes.plot(time.numpy(), values, **style)
        return
    (line,) = axes.plot(time.numpy(), np.median(values, axis=0), **style)
    for low, high in BANDS:
        edges = np.quantile(values, [low, high], axis=0)
        axes.fill_between(time.numpy(), *edges, color=line.get_color(), alpha=0.2, linewidth=0)


def draw_image(axes: Axes, x: Tensor, shape: tuple[int, int], **style: Any) -> None:
    """Draw one image `(H * W,)` in grey values, or the mean of samples `(S, H * W)` of it.

    Args:
        axes: Where to draw.
        x: Pixels between 0 and 1, row by row.
        shape: Height and width.
        style: Passed to `axes.imshow`.
    """
    pixels = torch.as_tensor(x).detach().cpu().double()
    if pixels.ndim > 1:
        pixels = pixels.mean(0)
    defaults: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1}
    axes.imshow(pixels.reshape(shape).numpy(), **defaults | style)
    axes.set_xticks([])
    axes.set_yticks([])
