from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).parents[2] / "data" / "pyloric_reference.npz"


@pytest.fixture(scope="session")
def reference() -> dict[str, np.ndarray]:
    """Output of the public simulator: noise-free traces and statistics of noisy runs."""
    with np.load(DATA) as archive:
        return {name: archive[name] for name in archive}
