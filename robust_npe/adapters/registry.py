"""Which adapter belongs to an object: found by the name of its class, so that no library is
imported that is not loaded already."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.distributions import Distribution

from robust_npe.adapters.black_box import BlackBoxPosterior
from robust_npe.adapters.modules import ModulePosterior
from robust_npe.checks import ConfigError, require
from robust_npe.posterior import Posterior

__all__ = ["as_posterior", "register"]

Adapter = Callable[..., Posterior]

_PACKAGE = "robust_npe.adapters"
_BAYESFLOW = "bayesflow.approximators.continuous_approximator.ContinuousApproximator"
_ADAPTERS: dict[str, Adapter | str] = {
    _BAYESFLOW: f"{_PACKAGE}.bayesflow:adapt",
    "bayesflow.workflows.basic_workflow.BasicWorkflow": f"{_PACKAGE}.bayesflow:adapt_workflow",
    "lampe.inference.npe.NPE": f"{_PACKAGE}.lampe:adapt_flow",
    "lampe.inference.fmpe.FMPE": f"{_PACKAGE}.lampe:adapt_flow",
    "lampe.inference.nre.NRE": f"{_PACKAGE}.lampe:adapt_ratio",
    "sbi.inference.posteriors.base_posterior.NeuralPosterior": f"{_PACKAGE}.sbi:adapt_posterior",
    "sbi.neural_nets.estimators.base.ConditionalDensityEstimator": f"{_PACKAGE}.sbi:SbiPosterior",
    "sbi.neural_nets.estimators.base.ConditionalVectorFieldEstimator": (
        f"{_PACKAGE}.sbi_vector_field:adapt_estimator"
    ),
}


def as_posterior(obj: Any, **options: Any) -> Posterior:
    """Return an object of another library as a posterior: a map from x `(B, Dx)` to a distribution
    over theta with batch shape `(B,)`.

    Args:
        obj: A function or torch module that maps x to a torch distribution (flows of zuko do); a
            posterior or density estimator of sbi; an estimator of lampe; an approximator of
            bayesflow with the torch backend; an object with
            `sample(shape, x=...)` and `log_prob(theta, x=...)`, a black box without gradients; or
            of a class that `register` was told about.
        options: Settings of its adapter, e.g. `num_draws` for a likelihood or ratio of sbi.

    Raises:
        ConfigError: Nothing is known about such an object, its library has another version than the
            one that is known, or it lacks what its adapter needs.
    """
    expected = "an object, not a class: train or construct it first"
    require(not isinstance(obj, type), "posterior", getattr(obj, "__name__", obj), expected)
    for kind in type(obj).__mro__:
        adapter = _ADAPTERS.get(_name(kind))
        if adapter is not None:
            return _resolve(adapter)(obj, **options)
    require(not options, "options", sorted(options), f"left out for a {type(obj).__name__}")
    if isinstance(obj, Mapping):
        what = f"{type(obj).__name__} of {', '.join(map(str, list(obj)[:3]))}, ..."
        expected = (
            "a posterior; weights alone do not say which network they are of: load them into it, "
            'and keep it by rn.save_posterior(net, "q.safetensors", builder, dims=(D, Dx))'
        )
        require(False, "posterior", what, expected)
    if isinstance(obj, nn.Module):
        # what brings scores of its own, such as an estimator of this package, is left as it is
        return obj.eval() if hasattr(obj, "scores") else ModulePosterior(obj)
    if callable(obj):
        return obj
    if hasattr(obj, "sample") and hasattr(obj, "log_prob") and not isinstance(obj, Distribution):
        return BlackBoxPosterior(obj)
    raise ConfigError(
        f"posterior={_name(type(obj))} is not valid: it must be a callable that maps x (B, Dx) to "
        "a torch distribution, or an object that `robust_npe.adapters.register` was told about."
    )


def register(kind: type | str, adapter: Adapter) -> None:
    """Say how objects of a class, and of classes that inherit from it, become posteriors.

    Args:
        kind: The class, or its full name, e.g. `mypackage.flows.Flow`, which imports nothing. The
            most specific class counts.
        adapter: Maps the object to a posterior; may take options by keyword.
    """
    require(callable(adapter), "adapter", adapter, "a function of the object")
    _ADAPTERS[kind if isinstance(kind, str) else _name(kind)] = adapter


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _resolve(adapter: Adapter | str) -> Adapter:
    if not isinstance(adapter, str):
        return adapter
    module, _, name = adapter.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        found = f"the library of this posterior has another interface ({error})"
        raise ConfigError(
            f"{found}: robust-npe knows sbi 0.27, lampe 0.9 and bayesflow 2."
        ) from error
