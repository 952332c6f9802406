"""What a task is: a prior, a simulator, and what else is known about them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from robust_npe.checks import ConfigError, require
from robust_npe.components import Component
from robust_npe.random import draws_from
from robust_npe.tasks.supports import vector_support

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Reference", "Task"]


@dataclass(frozen=True)
class Reference:
    """One observation with samples of its true posterior.

    Attributes:
        x: The observation, shape `(Dx,)`.
        theta: The parameters that generated it, shape `(D,)`.
        samples: Samples of the true posterior, shape `(S, D)`.
    """

    x: Tensor
    theta: Tensor
    samples: Tensor


class Task(Component, ABC):
    """A prior over parameters and a simulator of observations.

    A subclass sets `name`, `prior` (event shape `(D,)`) and `dim_x`, and implements `simulate`.
    Everything else is optional knowledge; what a task does not know raises `NotImplementedError`
    with a sentence, and `task.knows("true_posterior")` tells before.

    Attributes:
        name: The task's name, as in `task=<name>`.
        prior: Distribution over theta with event shape `(D,)`.
        dim_x: Number of features of one (flattened) observation.
        num_references: How many observations with reference posterior samples there are,
            numbered from 1.
        embedding: Name of the embedding that suits x, used where none is asked for.
        embedding_settings: Its settings that the shape of x determines.
        prior_density: Whether `prior.log_prob` is known.
        has_theta: Whether theta of its pairs generated x. If not, x comes alone, as images do:
            theta are latent variables that an estimator gives their meaning, those of the pairs are
            draws from the prior that hold the place, and what needs true ones does not apply.
        chunk_size: Simulations that are stored together; None for the store's own choice. What was
            interrupted goes on after the last complete chunk, so slow simulators have small ones.
    """

    prior: Distribution
    dim_x: int
    num_references: int = 0
    embedding: str = "identity"
    embedding_settings: Mapping[str, Any] = MappingProxyType({})
    prior_density: bool = True
    has_theta: bool = True
    chunk_size: int | None = None

    @property
    def dim_theta(self) -> int:
        """Number of parameters D.

        Raises:
            ConfigError: The prior is not one distribution over vectors.
        """
        name, prior = f"task {self.name}: its prior", getattr(self, "prior", None)
        require(isinstance(prior, Distribution), name, prior, "a torch distribution")
        shapes = tuple(self.prior.batch_shape), tuple(self.prior.event_shape)
        fits = shapes[0] == () and len(shapes[1]) == 1 and shapes[1][0] > 0
        expected = "of batch shape () and event shape (D,), e.g. by Independent(..., 1)"
        require(fits, f"{name}, batch and event shape", shapes, expected)
        return shapes[1][0]

    @property
    def support(self) -> Constraint:
        """Set of parameters with positive prior density, in the form of `vector_support`."""
        try:
            support = cast(Constraint, self.prior.support)
        except NotImplementedError as error:
            raise ConfigError(f"task {self.name}: its prior does not define `support`.") from error
        return vector_support(support, self.dim_theta, f"task {self.name}")

    @property
    def knows_support(self) -> bool:
        """Whether it is known where parameters may lie, and not only where some of them do."""
        return getattr(self.prior, "knows_support", True)

    @property
    def theta_names(self) -> list[str]:
        """Names of the parameters, for tables and axes."""
        return [f"theta_{i + 1}" for i in range(self.dim_theta)]

    @property
    def x_names(self) -> list[str]:
        """Names of the features of x, for tables and axes."""
        return [f"x_{i + 1}" for i in range(self.dim_x)]

    @property
    def domain(self) -> tuple[Tensor, Tensor] | None:
        """Smallest and largest physically possible x, each of shape `(Dx,)`; None if unbounded."""
        return None

    @property
    def noise_norm(self) -> float | None:
        """Expected L2 norm of the observation noise in units of x, None where it is not known."""
        return None

    def sample_prior(self, num_samples: int, generator: Generator) -> Tensor:
        """Draw theta from the prior, shape `(num_samples, D)`."""
        with draws_from(generator):
            return self.prior.sample((num_samples,))

    @abstractmethod
    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        """Simulate one observation for each parameter.

        Args:
            theta: Parameters of shape `(B, D)`.
            generator: The only source of randomness.

        Returns:
            Observations of shape `(B, Dx)`, float32. A simulation that failed has non-finite
            entries; it is never repaired.
        """

    def simulate_and_filter(self, theta: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Simulate, and tell which observations are of interest.

        A task that implements this has an experiment in which other observations do not occur:
        simulation sets then hold accepted pairs only, as many as were asked for.

        Args:
            theta: As for `simulate`.
            generator: As for `simulate`.

        Returns:
            What `simulate` returns, and whether each row is accepted, bool `(B,)`.
        """
        x = self.simulate(theta, generator)
        return x, torch.ones(len(x), dtype=torch.bool)

    def stored_pairs(self, split: str, seed: int, rows: slice) -> tuple[Tensor, Tensor]:
        """Return pairs that exist already, of a task that `knows` this instead of simulating.

        Args:
            split: `train`, `validation` or `test`; they have no pair in common.
            seed: Seed of the splits.
            rows: Which pairs of the split; those beyond its end are not there.

        Returns:
            Parameters `(n, D)` and observations `(n, Dx)`, float32.
        """
        raise NotImplementedError(f"task {self.name} stores no pairs: it simulates them")

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        """Return log p(x|theta) for `theta (*, D)` and `x (*, Dx)`, broadcast, shape `(*,)`."""
        raise NotImplementedError(f"task {self.name} has no tractable likelihood")

    def true_posterior(self, x: Tensor) -> Distribution:
        """Return p(theta|x) for `x (B, Dx)`: batch shape `(B,)`, event shape `(D,)`."""
        raise NotImplementedError(f"task {self.name} has no closed-form posterior")

    def reference(self, i: int) -> Reference:
        """Return the i-th reference observation (1-based) with samples of its true posterior."""
        raise NotImplementedError(f"task {self.name} stores no reference posteriors")

    def knows(self, what: str) -> bool:
        """Tell whether the task implements an optional method, e.g. `knows("true_posterior")`."""
        return getattr(type(self), what) is not getattr(Task, what)

    def plot(self, axes: Axes, x: Tensor, **style: object) -> None:
        """Draw one observation `x (Dx,)` as a scientist of the field would."""
        axes.plot(torch.as_tensor(x).cpu(), **style)  # type: ignore[arg-type]
        axes.set_xlabel("feature")
        axes.set_ylabel("x")
