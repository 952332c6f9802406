from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from robust_npe.store import StoreError
from robust_npe.store.weights import load_weights, save_weights


def test_round_trip(tmp_path):
    path = tmp_path / "weights.safetensors"
    module, other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    with torch.no_grad():
        module.running_mean.fill_(math.inf)  # as bounds of a support may be
        module.weight.uniform_(generator=torch.Generator().manual_seed(0))
    save_weights(module, path)
    load_weights(other, path)
    assert all(torch.equal(a, other.state_dict()[k]) for k, a in module.state_dict().items())
    assert list(tmp_path.iterdir()) == [path]


def test_nan_are_refused(tmp_path):
    folder = tmp_path / "0123"
    module, other = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    with torch.no_grad():
        module.bias[1] = math.nan
    save_weights(module, folder / "weights.safetensors")
    with pytest.raises(StoreError, match=rf"NaN in 1 of 5 .*bias.*Delete {folder} and train again"):
        load_weights(other, folder / "weights.safetensors")
    assert other.bias.isfinite().all()


def test_links_are_not_read(tmp_path):
    module = nn.BatchNorm1d(2)
    save_weights(module, tmp_path / "other")
    (tmp_path / "weights.safetensors").symlink_to(tmp_path / "other")
    with pytest.raises(StoreError, match="remove it"):
        load_weights(module, tmp_path / "weights.safetensors")
