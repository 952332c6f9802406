"""Figures of examples look as they did, see `test_every_plot`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from robust_npe import plotting
from robust_npe.recipes.regression import ridge_table
from tests.plotting.example_tables import example
from tests.plotting.test_attackable import observations
from tests.plotting.test_every_plot import PICTURES, pixels
from tests.plotting.test_examples import neuron
from tests.plotting.test_toy import table

PARAMETERS = ("alpha", "beta", "gamma", "delta")


def tasks():
    lotka = example("lotka_volterra", names=PARAMETERS, series=("prey", "predator"))
    return pd.concat([lotka, example("vae", names=("theta_1", "theta_2", "theta_3"), series=())])


PLOTS = {
    "examples": lambda: plotting.examples_figure(tasks()),
    "neuron": lambda: plotting.neuron_figure(pd.concat([neuron(), neuron(defense="fim")])),
    "toy": lambda: plotting.toy_figure(table()),
    "attackable": lambda: plotting.attackable_figure(
        pd.concat([observations(), observations("fim", 0.01)])
    ),
    "ridge": lambda: plotting.ridge_figure(ridge_table([0.0, 1.0])),
}


@pytest.mark.parametrize("name", PLOTS)
def test_pictures_are_as_they_were(name):
    """After a wanted change, delete a picture to have it drawn again, and look at it."""
    path = PICTURES / f"{name}.png"
    drawn = pixels(PLOTS[name]())
    if not path.exists():
        drawn.save(path, optimize=True)
    with Image.open(path) as stored:
        before = np.asarray(stored.convert("RGB"), float) / 255
    now = np.asarray(drawn, float) / 255
    assert now.shape == before.shape
    assert np.abs(now - before).mean() < 0.01
