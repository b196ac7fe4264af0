"""The advisor on a user's own trace: both file kinds, one step and many, and what is wrong with a file."""

import numpy as np
import polars as pl
import pytest

from operators.lab import stage
from operators.metro import advisor
from operators.metro.batches import TraceError
from operators.metro.settings import Settings

SETTINGS = Settings.checked({"ratios": [1.0, 1.5]})


def ids(steps=4, layers=2, tokens=32, seed=0):
    rng = np.random.default_rng(seed)
    chosen = [rng.choice(128, 8, replace=False) for _ in range(steps * layers * tokens)]
    return np.array(chosen).reshape(steps, layers, tokens, 8)


def as_table(found):
    rows = [
        {"step": step, "layer": layer, "experts": token.tolist()}
        for step, layers in enumerate(found)
        for layer, tokens in enumerate(layers)
        for token in tokens
    ]
    return pl.DataFrame(rows)


def test_numpy_and_parquet_give_the_same_counts(tmp_path):
    np.save(tmp_path / "t.npy", ids())
    np.savez(tmp_path / "t.npz", ids())
    as_table(ids()).write_parquet(tmp_path / "t.parquet")
    found = [advisor.counts_of_trace(tmp_path / name, 128) for name in ("t.npy", "t.npz", "t.parquet")]
    assert found[0].shape == (4, 2, 128)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_one_step_is_halved(tmp_path):
    np.save(tmp_path / "t.npy", ids()[0, 0])
    halves = advisor.counts_of_trace(tmp_path / "t.npy", 128)
    assert halves.shape == (2, 1, 128)
    assert halves.sum(axis=(1, 2)).tolist() == [16 * 8, 16 * 8]


def test_the_table_has_every_ratio_best_first(tmp_path, capsys):
    np.save(tmp_path / "t.npy", ids())
    advisor.main(trace=tmp_path / "t.npy", settings=SETTINGS, out=tmp_path / "advice.parquet")
    table = pl.read_parquet(tmp_path / "advice.parquet")
    assert set(table["r"]) == {1.0, 1.5}
    fitting = table.filter("fits")
    assert fitting["tpot_us"].is_sorted()
    assert (
        table.filter(pl.col("r") == 1.5)["bytes_per_gpu"][0] == 1.5 * table.filter(pl.col("r") == 1)["bytes_per_gpu"][0]
    )
    assert "expert time per layer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda path: np.save(path, ids()[0, 0] + 100), TraceError, "row"),
        (lambda path: np.save(path, np.zeros((4, 2), int)), TraceError, "row 0"),
        (lambda path: np.save(path, np.zeros(4)), ValueError, "expected integer ids"),
        (lambda path: np.save(path, np.zeros((2, 2, 2), int)), ValueError, "expected integer ids"),
    ],
)
def test_a_bad_array_is_named(make, error, words, tmp_path):
    make(tmp_path / "t.npy")
    with pytest.raises(error, match=words):
        advisor.counts_of_trace(tmp_path / "t.npy", 128)


def test_a_bad_table_is_named(tmp_path):
    pl.DataFrame({"ids": [[1]]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="no column `experts`; it has ids"):
        advisor.counts_of_trace(tmp_path / "t.parquet", 128)
    pl.DataFrame({"experts": [[1, 2], [3]]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(TraceError, match="row 1 has 1 ids"):
        advisor.counts_of_trace(tmp_path / "t.parquet", 128)
    as_table(ids())[: 4 * 64 - 32].write_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="different numbers of layers"):
        advisor.counts_of_trace(tmp_path / "t.parquet", 128)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(stage.SchemaError, match="not a readable"):
        advisor.counts_of_trace(tmp_path / "t.parquet", 128)


def test_an_unknown_model_lists_the_set_ups(tmp_path):
    np.save(tmp_path / "t.npy", ids())
    with pytest.raises(ValueError, match=r"'gpt'.*qwen3-30b, qwen3-235b, deepseek-v3"):
        advisor.main(trace=tmp_path / "t.npy", settings=SETTINGS, model="gpt")
