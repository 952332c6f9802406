"""The device that everything runs on."""

from __future__ import annotations

import torch

from robust_npe.checks import ConfigError, require

__all__ = ["checked_device"]


def checked_device(name: str) -> torch.device:
    """Return the device of this name.

    Raises:
        ConfigError: There is no such device on this machine.
    """
    try:
        device = torch.device(name)
        require(device.type != "meta", "device", name, "one that holds numbers, e.g. cpu")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device={name!r} is not available on this machine ({str(error).splitlines()[0]}). "
            "Use device=cpu."
        ) from error
    return device
