from __future__ import annotations

import pytest

from robust_npe.checks import ConfigError
from robust_npe.commands import simulate
from tests.test_config import composed


def simulated(output, *words):
    shared = ("task=sir", "num_simulations=30", f"output_dir={output}")
    return simulate.main(composed(*shared, *words, command="simulate"))


def files(output):
    (folder,) = [p.parent for p in output.glob("store/simulations/*/manifest.json")]
    return [(folder / name).read_bytes() for name in ("theta.npy", "x.npy")]


def test_shards_and_the_same_command_without_shard(tmp_path):
    assert "sir, shard 1/2: 0 pairs" in simulated(tmp_path / "parts", "shard=1/2")  # one chunk
    text = simulated(tmp_path / "parts", "shard=0/2")
    assert "sir, shard 0/2: 30 pairs" in text
    assert "without shard merges" in text
    assert "30 pairs" in simulated(tmp_path / "parts")
    simulated(tmp_path / "whole")
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_a_filter_is_reported(tmp_path):
    text = simulated(tmp_path, "task=pyloric", "num_simulations=10")
    assert "pyloric: 10 pairs, theta (10, 31), x (10, 2400)" in text
    assert "of 1024 simulations accepted" in text


@pytest.mark.parametrize("words", [("shard=2/2",), ("shard=1",), ("split=exam",)])
def test_wrong_settings_fail_before_any_work(tmp_path, words):
    with pytest.raises(ConfigError, match=words[0].split("=")[0]):
        simulated(tmp_path, *words)
    assert not list(tmp_path.iterdir())
