"""robust-npe: adversarial robustness of amortized Bayesian inference.

    import robust_npe as rn

    task = rn.tasks.GaussianLinear()
    q = rn.train(task, rn.estimators.MAF, rn.defenses.FIM(beta=0.01))

Everything is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robust_npe import (
        adapters,
        attacks,
        auditing,
        defenses,
        estimators,
        integrations,
        metrics,
        tasks,
    )
    from robust_npe.adapters import as_posterior, load_posterior, save_posterior
    from robust_npe.api import attack, kl, simulate, train
    from robust_npe.auditing.entry import audit
    from robust_npe.checks import ConfigError

__all__ = [
    "ConfigError",
    "__version__",
    "adapters",
    "as_posterior",
    "attack",
    "attacks",
    "audit",
    "auditing",
    "defenses",
    "estimators",
    "integrations",
    "kl",
    "load_posterior",
    "metrics",
    "save_posterior",
    "simulate",
    "tasks",
    "train",
]

__version__ = "0.1.0"

_FUNCTIONS = {name: "robust_npe.api" for name in ("attack", "kl", "simulate", "train")}
for _name in ("as_posterior", "load_posterior", "save_posterior"):
    _FUNCTIONS[_name] = "robust_npe.adapters"
_FUNCTIONS["audit"] = "robust_npe.auditing.entry"
_FUNCTIONS["ConfigError"] = "robust_npe.checks"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    return importlib.import_module(f"robust_npe.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
