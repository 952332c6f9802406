"""Train the decoder of the task `vae`.

The decoder that comes with the package was made by:

    python scripts/train_decoder.py --out robust_npe/tasks/data/digits_decoder.safetensors

and the 28 x 28 one of the paper's size is made, from MNIST's IDX files in a folder, by:

    python scripts/train_decoder.py --mnist FOLDER --hidden 500 --epochs 60 --out mnist.safetensors
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import torch

from robust_npe.random import stream
from robust_npe.tasks.decoder import save_decoder, train_decoder
from robust_npe.tasks.digits import bundled_digits, mnist_digits


def main() -> None:
    """Read the options, train, write."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="file to write (safetensors)")
    parser.add_argument("--mnist", type=Path, help="folder with MNIST's IDX files")
    parser.add_argument("--hidden", type=int, default=128, help="width of the hidden layers")
    parser.add_argument("--latent", type=int, default=3, help="number of latent dimensions")
    parser.add_argument("--epochs", type=int, default=200, help="passes over the images")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # the weights depend on it in their last digits
    images = mnist_digits(options.mnist) if options.mnist else bundled_digits()
    decoder = train_decoder(
        images,
        stream(options.seed, "decoder"),
        latent=options.latent,
        hidden=options.hidden,
        epochs=options.epochs,
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    arguments = [str(part) for part in sys.argv[1:]]
    save_decoder(decoder, options.out, shlex.join(["scripts/train_decoder.py", *arguments]))
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
