"""Your own simulations as a task: arrays or files of parameters and observations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor
from torch.distributions import Distribution
from typing_extensions import override

from robust_npe.checks import ConfigError, require
from robust_npe.random import stream
from robust_npe.tasks.empirical import Empirical
from robust_npe.tasks.precision import check_resolution
from robust_npe.tasks.reading import read_array
from robust_npe.tasks.shaped import ShapedTask, box

__all__ = ["DataTask", "FilesTask", "split_rows"]

FEWEST = 10  # rows for training, validation and test


class DataTask(ShapedTask):
    """A task made of simulations: it has no simulator. theta follow the prior.

    The pairs are split by seed into parts for training, validation and test. What asks for more
    pairs than a part has gets all of them. Rows with entries that are not finite (as float32) are
    left out of each part, and counted.

    Args:
        theta: Parameters `(N, D)`, or `(N,)` for one parameter.
        x: Observations `(N, ...)`, the i-th simulated from the i-th parameters.
        low: Lower bounds of the parameters; None: there are none.
        high: Upper bounds.
        prior: `empirical`: whatever `theta` were drawn from, its density is not known; `uniform`
            between the bounds.
        noise_std: Standard deviation of the observation noise, if known: a number or one for each
            feature.
        theta_names: Names of the parameters.
        x_names: Names of the features, or of the entries of the last axis of x.
        iid: Whether the first axis of an x numbers exchangeable observations, as in x `(N, n, Dx)`.
        validation: Share of the pairs that is for validation.
        test: Share of the pairs that is for tests.
        name: What the task is called in tables.

    Raises:
        ConfigError: Shapes or types do not fit each other, or parameters lie beyond the bounds.
    """

    name = "data"

    def __init__(
        self,
        theta: Tensor | np.ndarray,
        x: Tensor | np.ndarray,
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
        prior: Literal["empirical", "uniform"] = "empirical",
        noise_std: float | Sequence[float] | None = None,
        theta_names: Sequence[str] | None = None,
        x_names: Sequence[str] | None = None,
        iid: bool = False,
        validation: float = 0.1,
        test: float = 0.1,
        name: str | None = None,
    ) -> None:
        self.name = name or self.name
        self._pairs = _rows(theta, "task.theta"), _rows(x, "task.x")
        self._check_shapes("task.theta", "task.x")
        for what, rows in zip(("task.theta", "task.x"), self._pairs, strict=True):
            check_resolution(rows, what)
        shares = validation > 0 and test > 0 and validation + test < 1
        expected = "two positive shares that leave some for training"
        require(shares, "task.validation and task.test", (validation, test), expected)
        self.shares = {"test": test, "validation": validation}
        self.prior = self._prior(low, high, prior)
        self.prior_density = prior == "uniform"
        self.shape_x(self._pairs[1].shape[1:], iid, noise_std, theta_names, x_names)

    def _check_shapes(self, theta_name: str, x_name: str) -> None:
        theta, x = self._pairs
        told = f"{theta_name} has the shape {theta.shape} and {x_name} {x.shape}"
        if theta.ndim != 2:
            raise ConfigError(f"{told}, expected theta of shape (N, D).")
        if len(theta) != len(x):
            raise ConfigError(f"{told}, expected one row of x for each row of theta.")
        if len(theta) < FEWEST:
            raise ConfigError(f"{told}, expected at least {FEWEST} rows to split.")

    def _prior(
        self, low: Sequence[float] | None, high: Sequence[float] | None, kind: str
    ) -> Distribution:
        require(kind in ("empirical", "uniform"), "task.prior", kind, "empirical or uniform")
        theta = _float32(self._pairs[0])
        theta = theta[theta.isfinite().all(1)]
        require(len(theta) > 0, "task.theta", "no finite row", "finite")
        if low is None and high is None and kind == "empirical":
            return Empirical(theta)
        uniform = box(low, high)
        dim = theta.shape[1]
        require(uniform.event_shape == (dim,), "task.low", low, f"a list of {dim} numbers")
        support = uniform.support
        outside = int((~support.check(theta)).sum())
        expected = f"bounds of all parameters; {outside} of {len(theta)} rows of theta are beyond"
        require(outside == 0, "task.low and task.high", (list(low or ()), high), expected)
        return uniform if kind == "uniform" else Empirical(theta, support)

    @override
    def stored_pairs(self, split: str, seed: int, rows: slice) -> tuple[Tensor, Tensor]:
        chosen = split_rows(len(self._pairs[0]), tuple(self.shares.items()), seed)[split]
        require(len(chosen) > 0, f"task.{split}", f"{len(self._pairs[0])} rows in all", "more")
        theta, x = (_float32(array[chosen[rows]]) for array in self._pairs)
        return theta, x.reshape(len(x), self.dim_x)

    def some_pairs(self, most: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return pairs of all splits in random order, as many as there are up to `most`: finite
        parameters `(n, D)` and observations `(n, Dx)`, float32."""
        order = torch.randperm(len(self._pairs[0]), generator=generator)[:most].numpy()
        theta, x = (_float32(array[order]).flatten(1) for array in self._pairs)
        finite = theta.isfinite().all(1) & x.isfinite().all(1)
        return theta[finite], x[finite]

    @override
    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        raise NotImplementedError(f"task {self.name} has simulations, but no simulator")

    @override
    def knows(self, what: str) -> bool:
        return what != "simulate" and super().knows(what)


class FilesTask(DataTask):
    """A `DataTask` whose pairs lie in files, of which the content is part of the identity.

    Args:
        theta: File of the parameters: npy, npz (an array called `theta`, or a single one), csv with
            a header, or parquet.
        x: File of the observations; may be the same npz file, with an array called `x`.
        low: See `DataTask`, also for the other arguments.
        high: See there.
        prior: See there.
        noise_std: See there.
        theta_names: See there; None: as in the file.
        x_names: See there; None: as in the file.
        iid: See there.
        validation: See there.
        test: See there.
    """

    name = "files"

    def __init__(
        self,
        theta: Path | None = None,
        x: Path | None = None,
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
        prior: Literal["empirical", "uniform"] = "empirical",
        noise_std: float | Sequence[float] | None = None,
        theta_names: Sequence[str] | None = None,
        x_names: Sequence[str] | None = None,
        iid: bool = False,
        validation: float = 0.1,
        test: float = 0.1,
    ) -> None:
        for setting, value in {"task.theta": theta, "task.x": x}.items():
            require(value is not None, setting, value, "the path of a file")
        self.files = Path(theta or ""), Path(x or "")
        (theta_array, theta_columns), (x_array, x_columns) = (
            read_array(path, what) for path, what in zip(self.files, ("theta", "x"), strict=True)
        )
        super().__init__(
            theta_array,
            x_array,
            low,
            high,
            prior,
            noise_std,
            theta_names or theta_columns,
            x_names or x_columns,
            iid,
            validation,
            test,
            self.files[1].name,
        )

    @override
    def _check_shapes(self, *names: str) -> None:
        super()._check_shapes(*map(str, self.files))


def _rows(values: Any, name: str) -> np.ndarray:
    """Return an array of real numbers `(N, ...)` with at least two axes."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asanyarray(values)
    fits = array.dtype.kind in "fiub" and array.ndim > 0 and array.size > 0
    found = f"{array.dtype} of shape {array.shape}"
    require(fits, name, found, "an array of real numbers, one row per simulation")
    return array[:, None] if array.ndim == 1 else array


def _float32(array: np.ndarray) -> Tensor:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is left out
        return torch.from_numpy(array.astype(np.float32))


@lru_cache(maxsize=4)
def split_rows(num: int, shares: tuple[tuple[str, float], ...], seed: int) -> dict[str, np.ndarray]:
    """Return the numbers of the rows of each part, in random order.

    Args:
        num: Number of rows.
        shares: Name and share of each part, of at least one row; `train` has what is left.
        seed: Seed of the order.
    """
    order = torch.randperm(num, generator=stream(seed, "split")).numpy()
    parts, start = {}, 0
    for name, share in shares:
        size = max(1, round(share * num))
        parts[name] = order[start : start + size]
        start += size
    return {**parts, "train": order[start:]}
