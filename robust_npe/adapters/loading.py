"""Trained posteriors in files. Weights as safetensors are the way to hand them over: a stranger's
file runs no code. Pickles do, and are loaded only where the user says to trust them."""

from __future__ import annotations

import importlib
import logging
import pickle
import textwrap
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.distributions import Distribution, Transform
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from robust_npe.adapters.pickled import imports_of, load_object_array
from robust_npe.adapters.registry import as_posterior
from robust_npe.checks import ConfigError, require
from robust_npe.consent import resolve
from robust_npe.files import plain_file, write_atomically
from robust_npe.posterior import Posterior
from robust_npe.random import draws_from, stream

__all__ = ["MAX_BYTES", "load_posterior", "save_posterior", "stored_facts"]

log = logging.getLogger(__name__)

Builder = Callable[[int, int], nn.Module]

LIBRARIES = ("sbi", "zuko")  # whose networks are built by name
MAX_BYTES = 2**32
MAX_DIM = 10**6  # of theta and x, which the file names before its weights are looked at

# What a file of torch may be made of: networks, distributions and posteriors of these packages.
# Never functions: `getattr` or `partial`, which many networks of sbi hold, would open every door.
PACKAGES = ("torch.nn.modules", "torch.distributions", "nflows", "zuko", "sbi")
HARMLESS: dict[str, Any] = {
    "builtins.range": range,
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "numpy.dtypes.Int64DType": type(np.dtype(np.int64)),
    "numpy._core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
}


def save_posterior(
    module: nn.Module, path: str | Path, builder: str, dims: tuple[int, int]
) -> None:
    """Write the weights of a posterior or density estimator, and how to build it again.

    Args:
        module: What is trained: a torch module, or a density estimator of sbi.
        path: The file, ending in `.safetensors`.
        builder: Who builds it: `sbi:maf` (or another model of `sbi.neural_nets.posterior_nn`, with
            its default settings), `zuko:MAF` (or another class of `zuko.flows`), or `file:function`
            in a module of your own, called with the two numbers.
        dims: Numbers of parameters D and of features Dx.

    Raises:
        ConfigError: A builder of sbi or zuko makes another network, so that the file would be of
            no use; nothing is written.
    """
    path = Path(path)
    require(path.suffix == ".safetensors", "path", str(path), "a file ending in .safetensors")
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in module.state_dict().items()}
    if builder.partition(":")[0] in LIBRARIES:
        named = (
            f"the posterior does not fit builder={builder!r} with dims={tuple(dims)}; where it has "
            "settings of its own, name a function that builds it (file:function)"
        )
        _built(_builder(builder), dims, tensors, named)
    facts = {"builder": builder, "dim_theta": str(dims[0]), "dim_x": str(dims[1])}
    write_atomically(path, save(tensors, facts))


def load_posterior(
    path: str | Path, builder: str | Builder | None = None, trust: bool = False
) -> Posterior:
    """Load a trained posterior.

    Args:
        path: `.safetensors` as `save_posterior` writes it; or what `torch.save` or `pickle` wrote.
        builder: Builds the network from D and Dx, see `save_posterior`; None for the one that the
            file names. A function of the user's own needs consent, see `--module`.
        trust: Whether a file that can run any code while it is loaded may do so.

    Raises:
        ConfigError: The file does not fit its builder, names none, or needs trust.
    """
    with plain_file(path, "posterior", MAX_BYTES):
        pass  # it is one
    if Path(path).suffix == ".safetensors":
        return as_posterior(_from_weights(Path(path), builder))
    require(builder is None, "builder", builder, "left out but for a .safetensors file")
    return as_posterior(_from_pickle(Path(path), trust))


def stored_facts(path: Path) -> dict[str, str]:
    """Return what `save_posterior` wrote beside the weights, without looking at these: `builder`,
    `dim_theta` and `dim_x`, as text. Empty for other files.

    Raises:
        ConfigError: It is no file of weights, as its name says, or not from there.
    """
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
    except SafetensorError as error:
        raise ConfigError(f"posterior={str(path)!r} is no file of weights: {error}.") from error
    dims = [facts.get(name, "") for name in ("dim_theta", "dim_x")]
    known = all(dim.isdecimal() and 0 < int(dim) <= MAX_DIM for dim in dims)
    expected = (
        "a file that save_posterior wrote, which names the numbers of parameters and features"
    )
    require(known, "posterior", str(path), expected)
    return facts


def _from_weights(path: Path, builder: str | Builder | None) -> nn.Module:
    facts = stored_facts(path)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    build = _builder(facts.get("builder") if builder is None else builder)
    dims = int(facts["dim_theta"]), int(facts["dim_x"])
    return _built(build, dims, tensors, f"posterior={str(path)!r} does not fit its builder")


def _built(
    build: Builder, dims: tuple[int, int], tensors: dict[str, Tensor], otherwise: str
) -> nn.Module:
    """Build a network with these weights, or say why not."""
    with draws_from(stream(0, "build")):
        module = build(*dims)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        lines = [textwrap.shorten(line, 120, placeholder=" ...") for line in str(error).split("\n")]
        raise ConfigError(f"{otherwise}: {' '.join(lines[:5])}") from error
    return module


def _builder(builder: str | Builder | None) -> Builder:
    if builder is not None and not isinstance(builder, str):
        return builder
    library, _, name = str(builder).partition(":")
    if library == "sbi":
        return lambda dim_theta, dim_x: _build_sbi(name, dim_theta, dim_x)
    if library == "zuko":
        with _needing("zuko", builder):
            flows = importlib.import_module("zuko.flows")
        kind = getattr(flows, name, None)
        is_flow = isinstance(kind, type) and issubclass(kind, nn.Module)
        require(is_flow, "builder", builder, "a class of zuko.flows, e.g. zuko:MAF")
        return cast(Builder, kind)
    return resolve(builder, "builder")


def _build_sbi(model: str, dim_theta: int, dim_x: int) -> nn.Module:
    with _needing("'robust-npe[sbi]', in an environment without sbibm", f"sbi:{model}"):
        from sbi.neural_nets import posterior_nn

    # numbers to take shapes from; what z-scores them is overwritten with the stored weights
    return posterior_nn(model)(torch.randn(10, dim_theta), torch.randn(10, dim_x))


@contextmanager
def _needing(requirement: str, builder: str | None) -> Iterator[None]:
    """Say which package a builder needs where that, or a version that knows it, is not there."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"builder={builder!r} needs pip install {requirement} ({error})."
        ) from error


def _from_pickle(path: Path, trust: bool) -> Any:
    if trust:
        log.warning("posterior=%s is loaded as a pickle, which may run any code: trusted", path)
        return _trusted(path)
    if not zipfile.is_zipfile(path):  # as files of torch.save are
        names = imports_of(path)
        expected = "a file of rn.save_posterior (.safetensors), of torch.save, or a pickle"
        require(names is not None, "posterior", str(path), expected)
        raise _refused(path, f"it would import {_listed(names or [])}")
    try:
        needed = get_unsafe_globals_in_checkpoint(path)
        allowed = {name: _harmless(name) for name in needed}
        refused = sorted(name for name, kind in allowed.items() if kind is None)
        if not refused:
            # what numpy names its types only while loading, it does not list beforehand
            with safe_globals([*HARMLESS.values(), *((v, k) for k, v in allowed.items())]):
                return torch.load(path, map_location="cpu", weights_only=True)
        reason = f"it would import {_listed(refused)}"
    except Exception as error:  # noqa: BLE001 (whatever a broken or foreign file leads to)
        reason = str(error).split("\n", 1)[0].rstrip(".")
    raise _refused(path, reason)


def _refused(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"posterior={str(path)!r} cannot be loaded without running code that it chooses: {reason}. "
        "Save weights (rn.save_posterior), or say trust=true if you made the file."
    )


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more


def _trusted(path: Path) -> Any:
    """Load what `torch.save` or `pickle.dump` wrote; this runs whatever it says."""
    try:
        if zipfile.is_zipfile(path):  # the format of torch.save
            return torch.load(path, map_location="cpu", weights_only=False)
        if (found := load_object_array(path)) is not None:
            return found
        with path.open("rb") as file:
            return pickle.load(file)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
        raise ConfigError(f"posterior={str(path)!r} cannot be loaded: {reason}.") from error


def _harmless(name: str) -> Any:
    """Return the class of this full name if a stranger may construct it, else None."""
    if name in HARMLESS:
        return HARMLESS[name]
    module, _, attribute = name.rpartition(".")
    if not any(module == p or module.startswith(f"{p}.") for p in PACKAGES):
        return None
    kind = getattr(importlib.import_module(module), attribute, None)
    kinds: tuple[type, ...] = (nn.Module, Distribution, Transform)
    if module.startswith("sbi.inference."):
        from sbi.inference.posteriors.base_posterior import NeuralPosterior
        from sbi.inference.potentials.base_potential import BasePotential

        kinds += (NeuralPosterior, BasePotential)
    return kind if isinstance(kind, type) and issubclass(kind, kinds) else None
