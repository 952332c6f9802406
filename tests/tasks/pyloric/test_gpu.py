from __future__ import annotations

import os
import subprocess
import sys

import pytest

COMPARISON = """
import numpy as np
from robust_npe.tasks import pyloric
from robust_npe.tasks.pyloric.gpu import simulate_gpu

low, high = np.array(pyloric.PRIOR_LOW), np.array(pyloric.PRIOR_HIGH)
theta = low + (high - low) * np.random.default_rng(0).random((3, 31))
theta[1, 3] = -1.0
settings = {"first_index": 5, "t_max": 2.0, "every": 5}
gpu, cpu = simulate_gpu(theta, 3, **settings), pyloric.simulate(theta, 3, **settings)
assert gpu.voltage.shape == cpu.voltage.shape and gpu.voltage.dtype == cpu.voltage.dtype
assert np.array_equal(gpu.spiking, cpu.spiking)
np.testing.assert_allclose(gpu.voltage, cpu.voltage, rtol=0, atol=1e-4)
"""


@pytest.mark.slow
def test_gpu_source_agrees_on_simulated_device() -> None:
    """The simulator of the device runs the kernel in Python: 80 steps take half a minute."""
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    subprocess.run([sys.executable, "-c", COMPARISON], check=True, env=environment)
