from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from robust_npe.store import (
    OBSERVATION_COLUMNS,
    RESULT_COLUMNS,
    SchemaError,
    read_table,
    write_table,
)

ROW = {
    "run_id": "0042",
    "task": "gaussian_linear",
    "estimator": "maf",
    "defense": "none",
    "beta": None,
    "defense_epsilon": None,
    "defense_settings": "",
    "num_simulations": 100,
    "seed": 0,
    "data_seed": 0,
    "attack": "none",
    "norm": "",
    "objective": "",
    "attack_settings": "",
    "domain": "",
    "epsilon": 0.0,
    "epsilon_unit": "std",
    "epsilon_abs": 0.0,
    "metric": "nll",
    "statistic": "mean",
    "level": None,
    "value": 1 / 3,
}


def test_round_trip_is_exact(tmp_path):
    rows = [ROW, {**ROW, "beta": 0.1, "level": 0.95, "value": np.nextafter(1.0, 2)}]
    rows += [{**ROW, "value": value} for value in (np.inf, np.nan)]
    written = write_table(rows, tmp_path / "results.csv", RESULT_COLUMNS)
    read = read_table(tmp_path / "results.csv")
    pd.testing.assert_frame_equal(read, written)
    assert list(read.columns) == list(RESULT_COLUMNS)
    assert read.run_id[0] == "0042"  # not a number
    assert read.attack[0] == "none"  # not a missing value
    assert read.value[1] == np.nextafter(1.0, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["results.csv"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "unknown columns"),
        ({"value": "large"}, "column value must be of type float"),
        ({"seed": 0.5}, "column seed must be of type integer"),
    ],
)
def test_wrong_tables_are_not_written(tmp_path, change, message):
    with pytest.raises(SchemaError, match=message):
        write_table([{**ROW, **change}], tmp_path / "results.csv", RESULT_COLUMNS)
    assert not list(tmp_path.iterdir())


def test_missing_columns_are_noticed_when_reading(tmp_path):
    path = tmp_path / "results.csv"
    pd.DataFrame([ROW]).drop(columns="metric").to_csv(path, index=False)
    with pytest.raises(SchemaError, match=r"missing columns \['metric'\]"):
        read_table(path)


@pytest.mark.parametrize("content", [b"", b'"', b"\xff\xfe\x00"])
def test_what_is_no_table_is_named(tmp_path, content):
    (tmp_path / "results.csv").write_bytes(content)
    with pytest.raises(SchemaError, match=r"results\.csv: not a table"):
        read_table(tmp_path / "results.csv")


def test_both_schemas_document_every_column():
    for columns in (RESULT_COLUMNS, OBSERVATION_COLUMNS):
        for kind, meaning in columns.values():
            assert kind in ("string", "float", "integer")
            assert len(meaning) > 10
