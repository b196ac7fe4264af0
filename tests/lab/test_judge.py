"""The judging stage: stamps are carried, and tables of two runs are not mixed."""

import polars as pl
import pytest
import yaml

from operators.lab import judge, stage
from operators.lab import settings as lab

CLAIMS = {
    "policy": "policy",
    "unit": ["seed"],
    "claims": [
        {
            "id": "demo-one",
            "text": "a is half of b",
            "source": {"where": "our bar"},
            "measure": "time",
            "of": "a",
            "against": "b",
            "form": "ratio",
            "paper": {"high": 0.6},
            "accept": {"high": 0.7},
            "reason": "test",
            "basis": "real",
            "needs": {"data": "any", "profile": "ci"},
        }
    ],
}
SCHEMA = {"policy": pl.String, "seed": pl.Int64, "time": pl.Float64, "data": pl.String}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(CLAIMS))
    for name, seed in (("measures", 0), ("bench", 0), ("other", 1)):
        rows = [("a", 0, 1.0, "real"), ("b", 0, 2.0, "real")]
        frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
        settings = lab.Settings(system="demo", seed=seed)
        stage.write_table(frame, tmp_path / f"{name}.parquet", schema=SCHEMA, settings=settings)
    (tmp_path / "settings.json").write_text("{}")

    def call(*tables):
        judge.main(
            claims=tmp_path / "claims.yaml",
            tables=[tmp_path / f"{name}.parquet" for name in tables],
            settings=tmp_path / "settings.json",
            out=tmp_path / "claims.parquet",
            out_html=tmp_path / "claims.html",
        )

    return call


def test_verdicts_carry_where_they_come_from(run, tmp_path):
    run("measures", "bench")
    row = pl.read_parquet(tmp_path / "claims.parquet").row(0, named=True)
    assert (row["system"], row["verdict"], row["value"]) == ("demo", "reproduced", 0.5)
    assert row["commit"] == stage.read_stamp(tmp_path / "measures.parquet")["commit"]
    assert 'class="reproduced"' in (tmp_path / "claims.html").read_text()


def test_tables_of_two_settings_are_refused_and_nothing_is_written(run, tmp_path):
    with pytest.raises(ValueError, match=r"other\.parquet: made with settings .*measures\.parquet with"):
        run("measures", "other")
    assert not (tmp_path / "claims.parquet").exists()
