from __future__ import annotations

import logging
import signal
import warnings

import pytest
import torch
from hydra.core.hydra_config import HydraConfig

with warnings.catch_warnings():  # the tested matplotlib uses names that pyparsing has deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    import matplotlib.figure  # noqa: F401

torch.set_num_threads(1)

# tests in these modules draw random numbers themselves, without a generator
DRAW_THEMSELVES = ("test_autoregressive",)

GLOBAL_STATE = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
    "global random state": (torch.get_rng_state, torch.set_rng_state),
}


def equal(a, b):
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.fixture(autouse=True)
def _no_change_of_global_state(request):
    """Library code must not touch torch's global state, and most tests do not either."""
    draws = request.module.__name__.endswith(DRAW_THEMSELVES)
    before = {name: read() for name, (read, _) in GLOBAL_STATE.items()}
    yield
    changed = []
    for name, (read, write) in GLOBAL_STATE.items():
        if not equal(before[name], read()):
            write(before[name])  # so that only the culprit fails
            if not (draws and name == "global random state"):
                changed.append(name)
    assert not changed, f"changed global state: {', '.join(changed)}"


@pytest.fixture(autouse=True)
def _process_as_before():
    """Commands set the level of all messages, and Hydra keeps the last configuration: other tests
    count messages, and run without a command line."""
    before = logging.root.level
    yield
    logging.root.setLevel(before)
    HydraConfig.instance().cfg = None


@pytest.fixture
def interruptible():
    """Ctrl-C interrupts, also where a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The command line in an empty folder; what it sets in the process is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["robust-npe"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    return tmp_path
