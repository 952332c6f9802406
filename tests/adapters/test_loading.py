"""Files of posteriors: what loads, what is refused, and that nothing in a refused file runs."""

from __future__ import annotations

import pickle
import sys
from functools import partial
from types import ModuleType

import numpy as np
import pytest
import torch
import zuko
from safetensors.torch import save_file
from torch import nn
from torch.distributions import Independent, Normal

from robust_npe.adapters import load_posterior, save_posterior
from robust_npe.adapters.loading import _harmless
from robust_npe.adapters.pickled import COMPUTED, imports_of
from robust_npe.checks import ConfigError
from robust_npe.random import draws_from, stream

X, THETA = torch.eye(3)[:2], torch.ones(2, 2)


def flow(**options):
    with draws_from(stream(1)):
        return zuko.flows.NSF(2, 3, **options)


class Linear(nn.Module):
    def __init__(self, dim_theta, dim_x):
        super().__init__()
        self.net = nn.Linear(dim_x, dim_theta)

    def forward(self, x):
        return Independent(Normal(self.net(x), 1.0), 1)


def linear():
    with draws_from(stream(0)):
        return Linear(2, 3)


def test_weights_come_back(tmp_path):
    net, path = flow(), tmp_path / "q.safetensors"
    save_posterior(net, path, "zuko:NSF", (2, 3))
    found = load_posterior(path)(X).log_prob(THETA)
    torch.testing.assert_close(found, net(X).log_prob(THETA), rtol=0, atol=0)


def test_weights_come_back_with_a_builder_of_ones_own(tmp_path):
    net = linear()
    path = tmp_path / "q.safetensors"
    save_posterior(net, path, "mynet:Linear", (2, 3))
    torch.testing.assert_close(load_posterior(path, Linear)(X).mean, net(X).mean)
    with pytest.raises(ConfigError, match=r"mynet:Linear.*--module mynet\.py"):
        load_posterior(path)  # without consent


def test_files_that_do_not_fit(tmp_path):
    path = tmp_path / "q.safetensors"
    save_posterior(flow(), path, "zuko:NSF", (2, 3))
    with pytest.raises(ConfigError, match=r"does not fit its builder: .*size mismatch"):
        load_posterior(path, partial(zuko.flows.NSF, hidden_features=(8,)))
    with pytest.raises(ConfigError, match="a class of zuko"):
        load_posterior(path, "zuko:os")
    save_file(flow().state_dict(), path)
    with pytest.raises(ConfigError, match="a file that save_posterior wrote"):
        load_posterior(path, "zuko:NSF")
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigError, match="no file of weights"):
        load_posterior(path)
    with pytest.raises(ConfigError, match="a plain file"):
        load_posterior(tmp_path / "missing.safetensors")
    with pytest.raises(ConfigError, match=r"ending in \.safetensors"):
        save_posterior(flow(), tmp_path / "q.pt", "zuko:NSF", (2, 3))


@pytest.mark.parametrize(
    ("net", "dims"), [(flow(hidden_features=(8,)), (2, 3)), (flow(), (2, 4)), (linear(), (2, 3))]
)
def test_what_could_not_be_loaded_is_not_saved(net, dims, tmp_path):
    path = tmp_path / "q.safetensors"
    with pytest.raises(ConfigError, match=r"does not fit builder='zuko:NSF' with dims=\(2, "):
        save_posterior(net, path, "zuko:NSF", dims)
    assert not path.exists()


def test_builders_of_libraries_that_are_missing_say_what_they_need(tmp_path, monkeypatch):
    """sbi 0.21, beside sbibm, has no `posterior_nn` there; zuko may be missing altogether."""
    path = tmp_path / "q.safetensors"
    for name in ("sbi.neural_nets", "zuko.flows"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name) if name[0] == "s" else None)
    for builder, needed in (("sbi:maf", "'robust-npe.sbi.'"), ("zuko:NSF", "zuko")):
        message = f"builder='{builder}' needs pip install {needed}"
        with pytest.raises(ConfigError, match=message):
            save_posterior(linear(), path, builder, (2, 3))
        save_posterior(linear(), path, "mynet:Linear", (2, 3))
        with pytest.raises(ConfigError, match=message):
            load_posterior(path, builder)


@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_alone_are_told_where_to_go(wrapped, tmp_path):
    path, weights = tmp_path / "q.pt", linear().state_dict()
    torch.save({"epoch": 3, "model": weights} if wrapped else weights, path)
    with pytest.raises(ConfigError, match=r"weights alone .*rn\.save_posterior\(net"):
        load_posterior(path)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


def test_a_pickle_runs_nothing_unless_it_is_trusted(tmp_path, caplog):
    path, mark = tmp_path / "q.pt", tmp_path / "it ran"
    torch.save({"net": flow(), "bomb": Bomb(mark)}, path)
    with pytest.raises(ConfigError, match=r"builtins\.exec.*trust=true"):
        load_posterior(path)
    assert not mark.exists()
    net = linear()
    torch.save(net, path)
    with pytest.raises(ConfigError, match=r"test_loading\.Linear"):
        load_posterior(path)
    torch.testing.assert_close(load_posterior(path, trust=True)(X).mean, net(X).mean)
    assert "may run any code" in caplog.text


def test_networks_of_known_classes_load_without_trust(tmp_path):
    path = tmp_path / "net.pt"
    with draws_from(stream(0)):
        gmm = zuko.flows.GMM(2, 3, components=2)
    torch.save(gmm, path)
    torch.testing.assert_close(load_posterior(path)(X).log_prob(THETA), gmm(X).log_prob(THETA))


@pytest.mark.parametrize(
    "name",
    [
        "builtins.getattr",
        "functools.partial",
        "os.system",
        "torch.load",
        "torch.nn.modules.module.torch",
        "nflows.utils.torchutils.tile",
        "zuko.utils.odeint",
        "zuko.missing",
    ],
)
def test_names_that_a_stranger_may_not_use(name):
    assert _harmless(name) is None


def test_trusted_files_of_pickle_and_what_is_neither(tmp_path):
    net, path = linear(), tmp_path / "q.pkl"
    path.write_bytes(pickle.dumps(net))
    torch.testing.assert_close(load_posterior(path, trust=True)(X).mean, net(X).mean)
    path.write_text("u,v\n1,2\n")
    with pytest.raises(ConfigError, match="cannot be loaded: ") as error:
        load_posterior(path, trust=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_says_what_it_would_import(protocol, tmp_path):
    path, mark = tmp_path / "q.pkl", tmp_path / "it ran"
    content = {"net": linear(), "bomb": Bomb(mark), "again": [Linear, exec]}
    path.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(ConfigError, match=r"it would import .*trust=true") as error:
        load_posterior(path)
    assert "\n" not in str(error.value)
    assert not mark.exists()
    names = imports_of(path)
    module = "builtins" if protocol > 2 else "__builtin__"  # its name in Python 2
    assert {f"{module}.exec", f"{__name__}.Linear"} <= set(names)
    assert "posterior" not in " ".join(names)
    assert COMPUTED not in names


def test_files_of_numpy_with_objects(tmp_path):
    path, net = tmp_path / "q.npy", linear()
    np.save(path, np.array(net, dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError, match=r"it would import .*test_loading\.Linear"):
        load_posterior(path)
    torch.testing.assert_close(load_posterior(path, trust=True)(X).mean, net(X).mean)
    np.save(path, np.zeros(3))
    for trust in (False, True):
        with pytest.raises(ConfigError, match=r"q\.npy' (is not valid|cannot be loaded)"):
            load_posterior(path, trust=trust)


def test_old_files_of_torch_and_what_is_neither(tmp_path):
    path = tmp_path / "q.pt"
    torch.save(linear(), path, _use_new_zipfile_serialization=False)
    with pytest.raises(ConfigError, match=r"it would import .*test_loading\.Linear"):
        load_posterior(path)
    path.write_text("u,v\n1,2\n")
    with pytest.raises(ConfigError, match=r"must be a file of rn\.save_posterior"):
        load_posterior(path)
    path.write_bytes(b"\x80\x04\x8c\x02os\x8c\x06system\x86\x93.")  # of a tuple, not of strings
    assert imports_of(path) == [COMPUTED]
