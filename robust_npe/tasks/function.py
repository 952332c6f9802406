"""Your own simulator as a task: a function, and a prior."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution
from typing_extensions import override

from robust_npe.checks import ConfigError, require
from robust_npe.consent import modules_behind, resolve
from robust_npe.random import stream
from robust_npe.shapes import broadcast_shapes
from robust_npe.tasks.calling import ARRAYS, Function, call, wants_arguments
from robust_npe.tasks.shaped import ShapedTask, box

__all__ = ["FunctionTask", "NamedFunctionTask"]

log = logging.getLogger(__name__)

SLOW_CHUNK = 256  # simulations that an interruption may cost, one by one
PROBES = 7  # parameters of a trial call; few functions return as many features


class FunctionTask(ShapedTask):
    """A task made of a function that simulates, and a prior.

    The function draws its random numbers from the global generators of torch, numpy or Python's
    `random`, which are seeded around each call. At first it is called for a few parameters, to see
    the shape of x and which arrays it understands; `x_shape` and `array` together spare it that.

    Args:
        simulator: Maps theta `(B, D)` to x `(B, ...)`, or theta `(D,)` to x if not `vectorized`.
        prior: Distribution over theta with event shape `(D,)`, or a function that returns it; None
            for the uniform one between `low` and `high`.
        low: Lower bounds of a uniform prior, one per parameter.
        high: Upper bounds.
        log_likelihood: Maps theta `(B, D)` and x `(B, ...)` to log p(x|theta) `(B,)`.
        noise_std: Standard deviation of the observation noise, if known: a number or one for each
            feature.
        theta_names: Names of the parameters.
        x_names: Names of the features, or of the entries of the last axis of x.
        vectorized: Whether the function takes many parameters at once. If not, it runs on all
            cores, and simulations are stored in chunks of 256.
        array: Whether functions are given arrays of numpy (float64) or tensors; `auto`: what works,
            arrays if both do.
        x_shape: Shape of one x; None to find out.
        iid: Whether the first axis of x numbers exchangeable observations.
        name: What the task is called in tables; None for the function's name.

    Raises:
        ConfigError: Something does not fit, or the function fails.
    """

    name = "function"

    def __init__(
        self,
        simulator: Callable[[Any], Any],
        prior: Distribution | Callable[[], Distribution] | None = None,
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
        log_likelihood: Callable[[Any, Any], Any] | None = None,
        noise_std: float | Sequence[float] | None = None,
        theta_names: Sequence[str] | None = None,
        x_names: Sequence[str] | None = None,
        vectorized: bool = True,
        array: Literal["auto", "torch", "numpy"] = "auto",
        x_shape: Sequence[int] | None = None,
        iid: bool = False,
        name: str | None = None,
    ) -> None:
        is_function = callable(simulator) and not isinstance(simulator, type)
        require(is_function, "task.simulator", simulator, "a function of theta")
        require(array in ("auto", *ARRAYS), "task.array", array, "one of auto, torch, numpy")
        self.name = name or str(getattr(simulator, "__name__", type(simulator).__name__))
        self.prior = _prior(prior, low, high)
        self.likelihood = log_likelihood
        self.vectorized = vectorized
        self.chunk_size = None if vectorized else SLOW_CHUNK
        self.simulator = simulator
        self.array: str = array
        if array == "auto" or x_shape is None:
            self.array, found = self._trial(ARRAYS if array == "auto" else (array,))
            x_shape = x_shape or found
        self.shape_x(x_shape, iid, noise_std, theta_names, x_names)

    @override
    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        function = self._function(self.array)
        x = function(theta, generator)
        if x.shape[1:] != self.x_shape:
            raise ConfigError(
                f"{function.name} returned x of shape {tuple(x.shape[1:])}, expected "
                f"{self.x_shape}, as at first (or in task.x_shape)."
            )
        return x.reshape(len(theta), self.dim_x)

    @override
    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        if self.likelihood is None:
            return super().log_likelihood(theta, x)
        shape = broadcast_shapes(theta.shape[:-1], x.shape[:-1])
        theta = theta.expand(*shape, self.dim_theta).reshape(-1, self.dim_theta)
        x = x.expand(*shape, self.dim_x).reshape(-1, *self.x_shape)
        return self._likelihood(self.array, theta, x).reshape(shape)

    def _likelihood(self, array: str, theta: Tensor, x: Tensor) -> Tensor:
        assert self.likelihood is not None
        value = torch.as_tensor(call(self.likelihood, "task.log_likelihood", array, theta, x))
        if value.shape != (len(theta),):
            raise ConfigError(
                f"task.log_likelihood returned the shape {tuple(value.shape)} for {len(theta)} "
                f"rows of theta and x, expected ({len(theta)},)."
            )
        return value

    @override
    def knows(self, what: str) -> bool:
        if what == "log_likelihood":
            return self.likelihood is not None
        return super().knows(what)

    def _function(self, array: str) -> Function:
        return Function(self.simulator, self._told_name, array, self.vectorized)

    @property
    def _told_name(self) -> str:
        return f"the simulator {self.name}"

    def _trial(self, arrays: Sequence[str]) -> tuple[str, tuple[int, ...]]:
        """Call the function for a few parameters; return the arrays it understands, and the shape
        of one x.

        Raises:
            ConfigError: It fails, or what it returns depends on the kind of arrays.
        """
        theta = self.sample_prior(PROBES if self.vectorized else 1, stream(0, "trial")).float()
        found: dict[str, Tensor] = {}
        errors: dict[str, ConfigError] = {}
        for array in arrays:
            try:
                found[array] = self._tried(array, theta)
            except ConfigError as error:
                errors[array] = error
        if not found:
            raise _joint_error(errors, self.vectorized)
        array, x = next(iter(found.items()))
        agree = _same(x, *found.values())
        if agree and len(found) == 2:
            return array, tuple(x.shape[1:])
        if not _same(x, self._tried(array, theta)):
            log.warning(
                "%s gives other x when it is called again with the same seeds: results cannot be "
                "reproduced. Let it draw from torch, np.random or random, not from a generator "
                "of its own such as np.random.default_rng()",
                self._told_name,
            )
        elif not agree:
            raise ConfigError(
                f"{self._told_name} gives other x for arrays of numpy than for tensors of torch: "
                "say which ones it is made for, task.array=numpy or task.array=torch."
            )
        return array, tuple(x.shape[1:])

    def _tried(self, array: str, theta: Tensor) -> Tensor:
        with warnings.catch_warnings():  # as of arrays that are mixed
            warnings.simplefilter("ignore")
            x = self._function(array)(theta, stream(0, "x of the trial"))
            if self.likelihood is not None:
                values = self._likelihood(array, theta, x)
                if bool(values.isnan().all()):
                    raise ConfigError("task.log_likelihood is NaN for all theta of a trial.")
        return x


class NamedFunctionTask(FunctionTask):
    """A `FunctionTask` whose parts are named: `module:name` in a file handed over by --module.

    Code and `files` are part of the identity: that of the modules named, and of others of the
    user's own that these import.

    Args:
        simulator: Name of the function, e.g. `sim:simulate`.
        prior: Name of a distribution, or of a function that returns it; null for the uniform one
            between `low` and `high`.
        low: See `FunctionTask`, also for the arguments that are not listed here.
        high: See there.
        log_likelihood: Name of a function.
        noise_std: Number, numbers, or the name of these.
        theta_names: Names, or the name of a list of them.
        x_names: See `theta_names`.
        vectorized: See `FunctionTask`.
        array: See there.
        x_shape: See there.
        iid: See there.
        files: Files that the simulator reads.
    """

    def __init__(
        self,
        simulator: str | None = None,
        prior: str | None = None,
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
        log_likelihood: str | None = None,
        noise_std: float | Sequence[float] | str | None = None,
        theta_names: Sequence[str] | str | None = None,
        x_names: Sequence[str] | str | None = None,
        vectorized: bool = True,
        array: Literal["auto", "torch", "numpy"] = "auto",
        x_shape: Sequence[int] | None = None,
        iid: bool = False,
        files: Sequence[Path] = (),
    ) -> None:
        self.target = simulator or ""
        self.files = list(files)
        for path in self.files:
            require(path.is_file(), "task.files", str(path), "the path of a file")
        super().__init__(
            resolve(simulator, "task.simulator"),
            _resolved(prior, "task.prior"),
            low,
            high,
            _resolved(log_likelihood, "task.log_likelihood"),
            _resolved(noise_std, "task.noise_std"),
            _resolved(theta_names, "task.theta_names"),
            _resolved(x_names, "task.x_names"),
            vectorized,
            array,
            x_shape,
            iid,
            self.target,
        )

    @classmethod
    @override
    def sources(cls, arguments: Mapping[str, Any]) -> Iterable[str]:
        references = {k: v for k, v in arguments.items() if k in REFERENCES and isinstance(v, str)}
        for key, reference in references.items():
            resolve(reference, f"task.{key}")
            yield from modules_behind(reference.partition(":")[0])

    @override
    def _function(self, array: str) -> Function:
        return Function(self.target, self._told_name, array, self.vectorized)


REFERENCES = ("simulator", "prior", "log_likelihood", "noise_std", "theta_names", "x_names")


def _resolved(value: Any, name: str) -> Any:
    return resolve(value, name) if isinstance(value, str) else value


def _prior(
    prior: Distribution | Callable[[], Distribution] | None,
    low: Sequence[float] | None,
    high: Sequence[float] | None,
) -> Distribution:
    bounds = low is not None or high is not None
    expected = "one of two: a distribution, or bounds task.low and task.high"
    require((prior is not None) != bounds, "task.prior", prior, expected)
    if prior is None:
        return box(low, high)
    expected = "a torch distribution, or a function without arguments that returns one"
    if not isinstance(prior, Distribution):
        name = getattr(prior, "__name__", prior)
        require(callable(prior) and not wants_arguments(prior), "task.prior", name, expected)
    found = prior if isinstance(prior, Distribution) else call(prior, "task.prior", "torch")
    require(isinstance(found, Distribution), "task.prior", found, expected)
    return found


def _joint_error(errors: Mapping[str, ConfigError], vectorized: bool) -> ConfigError:
    """Return the error for the first kind of arrays, and what another one says beside it."""
    first, *others = dict.fromkeys(str(error) for error in errors.values())
    told = [first, *(f"With tensors of torch: {other}" for other in others)]
    if first.startswith("task.log_likelihood"):
        told.append("It is called with theta (B, D) and x (B, ...), and returns (B,).")
    elif vectorized and "task.vectorized" not in first:
        told.append("It was given theta (B, D): one of a single theta needs task.vectorized=false.")
    return ConfigError(" ".join(told))


def _same(first: Tensor, *others: Tensor) -> bool:
    """Tell whether x `(B, ...)` agree up to rounding, each feature in its own units."""
    size = 1e-3 * first.abs().nan_to_num(0, 0, 0).amax(0)

    def agrees(x: Tensor) -> bool:
        missing = x.isnan() & first.isnan()
        return bool(((x == first) | missing | ((x - first).abs() <= size)).all())

    return all(x.shape == first.shape and agrees(x) for x in others)
