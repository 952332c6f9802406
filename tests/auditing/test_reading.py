"""Columns of files: whose names they have decides where they belong."""

import logging

import pytest
import torch

from robust_npe.auditing.reading import read_rows
from robust_npe.checks import ConfigError

OWN, NUMBERED = ["temp", "pressure"], ["x_1", "x_2"]


@pytest.fixture
def read(tmp_path):
    def read(text, names):
        path = tmp_path / "x.csv"
        path.write_text(text)
        return read_rows("x", path, (2,), names)

    return read


@pytest.mark.parametrize("names", [OWN, NUMBERED])
def test_columns_come_in_any_order(read, names):
    rows = read(f"{names[1]},{names[0]}\n1,2\n3,4\n", names)
    assert torch.equal(rows, torch.tensor([[2.0, 1.0], [4.0, 3.0]]))


def test_other_names_are_not_taken_for_those_of_the_features(read):
    message = "has the columns Pressure, Temp, expected temp, pressure, in any order"
    with pytest.raises(ConfigError, match=message):
        read("Pressure,Temp\n1,2\n", OWN)


def test_names_of_columns_whose_features_have_none_are_told(read, caplog):
    caplog.set_level(logging.INFO, "robust_npe")
    rows = read("pressure,temp\n1,2\n", NUMBERED)
    assert torch.equal(rows, torch.tensor([[1.0, 2.0]]))
    assert "the columns pressure, temp are taken, in this order, for x_1, x_2" in caplog.text
