"""The tasks of the benchmark sbibm, with its observations and reference posteriors."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor
from torch.distributions import MultivariateNormal
from typing_extensions import override

from robust_npe.checks import require
from robust_npe.tasks import sbibm_dynamics as dynamics
from robust_npe.tasks import sbibm_models as models
from robust_npe.tasks.base import Reference, Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SBIBM", "SBIBM_TASKS"]

MODELS: dict[str, Callable[[], models.Model]] = {
    "bernoulli_glm": models.BernoulliGLM,
    "bernoulli_glm_raw": models.BernoulliGLMRaw,
    "gaussian_linear": models.BenchmarkGaussianLinear,
    "gaussian_linear_uniform": models.GaussianLinearUniform,
    "gaussian_mixture": models.BenchmarkGaussianMixture,
    "lotka_volterra": dynamics.BenchmarkLotkaVolterra,
    "sir": dynamics.BenchmarkSIR,
    "slcp": models.SLCP,
    "slcp_distractors": models.SLCPDistractors,
    "two_moons": models.TwoMoons,
}

SBIBM_TASKS = tuple(MODELS)
"""Names that `SBIBM` accepts."""

FILES = {  # where a task's data lie: folder and name of the observation's file
    "bernoulli_glm_raw": ("bernoulli_glm", "observation_raw.csv"),
    "slcp_distractors": ("slcp", "observation_distractors.csv"),
}


class SBIBM(Task):
    """A task of sbibm: `SBIBM("two_moons")` is the task named `sbibm/two_moons`.

    Observations, true parameters and reference posteriors are read from the installed package's
    CSV files. Priors, simulators and likelihoods are this project's own, vectorised, seeded by a
    generator and tested against sbibm's. Nothing of sbibm is executed: importing it changes
    global settings of torch, two of its simulators need Julia, and one loads a pickle.

    Source: Lueckmann, Boelts, Greenberg, Gonçalves & Macke (2021), "Benchmarking
    simulation-based inference", https://arxiv.org/abs/2101.04653.

    Args:
        name: Name of the task in sbibm, one of `SBIBM_TASKS`.

    Raises:
        ValueError: If there is no such task.
        ImportError: If sbibm is not installed.
    """

    num_references = 10

    def __init__(self, name: str) -> None:
        require(name in MODELS, "task.name", name, f"one of {list(MODELS)}")
        self.name = f"sbibm/{name}"
        self.benchmark = name
        self.files = _package_folder(self.name) / "tasks"
        self.model = MODELS[name]()
        self.prior = self.model.prior
        self.dim_x = self.model.dim_x

    @property
    def theta_names(self) -> list[str]:
        """Names of the parameters."""
        return self.model.theta_names or super().theta_names

    @property
    def x_names(self) -> list[str]:
        """Names of the features."""
        return self.model.x_names or super().x_names

    @property
    def domain(self) -> tuple[Tensor, Tensor] | None:
        """Range of possible x, where it is bounded."""
        return self.model.domain

    @property
    def noise_norm(self) -> float | None:
        """Expected L2 norm of the observation noise, for the tasks with Gaussian noise."""
        return self.model.noise_norm

    @override
    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        return self.model.simulate(theta.double(), generator).float()

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        """See `Task.log_likelihood`; float64."""
        return self.model.log_likelihood(theta.double(), x.double())

    def true_posterior(self, x: Tensor) -> MultivariateNormal:
        """Exact posterior of `gaussian_linear`: half the observation, half the variance."""
        if not self.knows("true_posterior"):
            raise NotImplementedError(f"task {self.name} has no closed-form posterior")
        assert isinstance(self.model, models.BenchmarkGaussianLinear)
        scale = torch.eye(self.dim_x, dtype=x.dtype) * (self.model.noise_std / 2**0.5)
        return MultivariateNormal(x / 2, scale_tril=scale)

    def knows(self, what: str) -> bool:
        """See `Task.knows`; only `gaussian_linear` has a posterior in closed form."""
        if what == "true_posterior":
            return (
                type(self.model) is models.BenchmarkGaussianLinear
            )  # not its child with a uniform prior
        return super().knows(what)

    def reference(self, i: int) -> Reference:
        """See `Task.reference`; sbibm stores ten observations with 10 000 samples each."""
        require(1 <= i <= self.num_references, "reference", i, f"1 to {self.num_references}")
        folder, observation = FILES.get(self.benchmark, (self.benchmark, "observation.csv"))
        files = self.files / folder / "files" / f"num_observation_{i}"
        return Reference(
            x=_read(files / observation)[0],
            theta=_read(files / "true_parameters.csv")[0],
            samples=_read(files / "reference_posterior_samples.csv.bz2"),
        )

    def plot(self, axes: Axes, x: Tensor, **style: Any) -> None:
        """Draw one observation: the features in a row, or a point for two of them."""
        if self.dim_x != 2:
            super().plot(axes, x, **style)
            return
        axes.plot(*torch.as_tensor(x).cpu().numpy(), **{"marker": "o", "ls": ""} | style)
        axes.set_xlabel("x_1")
        axes.set_ylabel("x_2")


def _package_folder(task: str) -> Path:
    """Find the installed package without importing it."""
    spec = find_spec("sbibm")
    if spec is None or spec.origin is None:
        raise ImportError(
            f"task {task} needs the package sbibm for its observations and reference posteriors. "
            "Install it with: pip install 'robust-npe[sbibm]'"
        )
    return Path(spec.origin).parent


def _read(path: Path) -> Tensor:
    """Read a table of numbers as float32."""
    return torch.from_numpy(pd.read_csv(path).to_numpy(dtype=np.float32, copy=True))
