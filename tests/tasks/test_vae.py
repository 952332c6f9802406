import gzip
import os
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from robust_npe.checks import ConfigError
from robust_npe.random import draws_from, stream
from robust_npe.tasks.decoder import load_decoder, make_decoder, save_decoder, train_decoder
from robust_npe.tasks.digits import bundled_digits, mnist_digits
from robust_npe.tasks.vae import DEFAULT_DECODER, VAE


@pytest.fixture(scope="module")
def task():
    return VAE()


def test_shapes_names_and_seeds(task):
    theta = task.sample_prior(20, stream(0))
    x = task.simulate(theta, stream(1))
    assert x.shape == (20, 64)
    assert x.dtype == torch.float32
    assert torch.isfinite(x).all()
    assert torch.equal(x, task.simulate(theta, stream(1)))
    assert not torch.equal(x, task.simulate(theta, stream(2)))
    assert len(set(task.x_names)) == task.dim_x == 64
    assert task.dim_theta == 3


def test_noise_and_likelihood_agree(task):
    theta = task.sample_prior(1, stream(0))
    x = task.simulate(theta.expand(2000, 3), stream(1))
    residual = x - task.decoder(theta[0])
    assert float(residual.std()) == pytest.approx(0.05, rel=0.02)
    assert task.noise_norm == pytest.approx(float(residual.norm(dim=1).mean()), rel=0.02)
    entropy = -task.log_likelihood(theta[0], x).mean()
    expected = 64 * (0.5 + torch.log(torch.tensor(0.05 * (2 * torch.pi) ** 0.5)))
    assert float(entropy) == pytest.approx(float(expected), abs=0.5)
    assert task.log_likelihood(theta[:, None], x[:3]).shape == (1, 3)


def test_the_bundled_decoder_draws_digits(task):
    """Latent variables must explain a good part of the images, and stay standard normal."""
    images = bundled_digits()
    latent = task.sample_prior(4000, stream(0))
    nearest = torch.cdist(images, task.decoder(latent)).amin(1) ** 2
    assert float(nearest.mean()) < 0.5 * float(images.var(dim=0).sum())
    with safe_open(DEFAULT_DECODER, "pt") as file:
        assert file.metadata()["command"].startswith("scripts/train_decoder.py")


def test_training_learns_and_is_deterministic():
    images = bundled_digits()[:256]
    first, second = (
        train_decoder(images, stream(0), latent=2, hidden=16, epochs=3) for _ in range(2)
    )
    other = train_decoder(images, stream(1), latent=2, hidden=16, epochs=3)
    for name, weights in first.state_dict().items():
        assert torch.equal(weights, second.state_dict()[name])
    assert not torch.equal(first[0].weight, other[0].weight)
    trained = train_decoder(images, stream(0), latent=2, hidden=16, epochs=40)
    theta = torch.randn(300, 2, generator=stream(2))
    far, near = (torch.cdist(images, net(theta)).amin(1).mean() for net in (first, trained))
    assert near < 0.9 * far
    with pytest.raises(ValueError, match="epochs"):
        train_decoder(images, stream(0), epochs=0)


def test_decoders_survive_the_disk(tmp_path):
    with draws_from(stream(0)):
        decoder = make_decoder(5, 8, 49)
    save_decoder(decoder, tmp_path / "d.safetensors", "made by hand")
    theta = torch.randn(3, 5, generator=stream(0))
    assert torch.equal(load_decoder(tmp_path / "d.safetensors")(theta), decoder(theta))
    task = VAE(tmp_path / "d.safetensors")
    assert (task.dim_theta, task.dim_x, task.side) == (5, 49, 7)


def test_files_that_are_no_decoders_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"task.decoder=.*none.safetensors' .*No such file"):
        VAE(tmp_path / "none.safetensors")
    os.mkfifo(tmp_path / "pipe")  # opening it for reading would wait for ever
    with pytest.raises(ConfigError, match="a plain file"):
        VAE(tmp_path / "pipe")
    (tmp_path / "text").write_text("hello")
    save_file({"weight": torch.ones(2)}, tmp_path / "other")
    with draws_from(stream(0)):
        weights = make_decoder(2, 4, 9).state_dict()
    save_file(weights | {"6.bias": torch.ones(16)}, tmp_path / "torn")
    save_file(weights | {"6.bias": torch.tensor(1.0)}, tmp_path / "scalar")
    save_file(weights | {"0.weight": torch.ones(4, 2, dtype=torch.int64)}, tmp_path / "whole")
    for name in ("text", "other", "torn", "scalar", "whole"):
        with pytest.raises(ConfigError, match=r"^task.decoder=.* hold a decoder .* make one .*$"):
            VAE(tmp_path / name)
    with draws_from(stream(0)):
        save_decoder(make_decoder(2, 4, 50), tmp_path / "oblong.safetensors", "")
    with pytest.raises(ValueError, match="square"):
        VAE(tmp_path / "oblong.safetensors")
    with pytest.raises(ValueError, match="noise_std"):
        VAE(noise_std=0.0)


@pytest.mark.parametrize("packed", [True, False])
def test_mnist_files_are_read(tmp_path, packed):
    content = struct.pack(">4i", 2051, 2, 3, 3) + bytes(range(18))
    name = "train-images-idx3-ubyte" + (".gz" if packed else "")
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    images = mnist_digits(tmp_path)
    assert images.shape == (2, 9)
    assert float(images[1, 8]) == pytest.approx(17 / 255)


def test_missing_or_broken_mnist_files_say_what_is_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match="train-images-idx3-ubyte"):
        mnist_digits(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\x00" * 30)
    with pytest.raises(ValueError, match="IDX"):
        mnist_digits(tmp_path)


def test_plot_is_an_image(task, axes):
    x = task.simulate(task.sample_prior(4, stream(0)), stream(1))
    task.plot(axes, x[0])
    task.plot(axes, x)
    assert axes.images[0].get_array().shape == (8, 8)
