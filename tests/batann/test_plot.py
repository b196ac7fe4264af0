"""The plot stage: every figure with its table, also from tables that lack what a small profile does not run."""

import re
from pathlib import Path

import polars as pl
import pytest

from operators.batann import bench, charts, charts_model, charts_time, charts_work, evaluate, plot, run
from operators.batann.charts import Tables
from operators.batann.rivals import row
from operators.batann.settings import Settings
from operators.lab import figures

ROOT = Path(__file__).parents[2]
SETTINGS = Settings.checked({"n": 1000, "tier_servers": [3], "servers": [1, 3], "W_list": [1], "queries": 10})
N = 1000


def frame(rows: list[dict], schema: dict) -> pl.DataFrame:
    """Rows with nulls for what they do not give."""
    return pl.DataFrame([{name: item.get(name) for name in schema} for item in rows], schema=schema)


def measures() -> pl.DataFrame:
    common = {"n": N, "method": "gp", "seed": 0, "W": 1, "basis": "real", "data": "synthetic", "transport": "tcp"}
    rows = []
    for mode, S, qps, reads in (("baton", 1, 50.0, 20.0), ("baton", 3, 140.0, 20.0), ("scatter", 3, 60.0, 50.0)):
        ran = {"scenario": "metered", "mode": mode, "S": S, "recall": 0.951, "qps": qps, "reads": reads, "L": 15}
        rows += [common | ran | {"at": "run"}, common | ran | {"at": "best"}]
        if S == 3:
            opened = ran | {"scenario": "open", "at": "run", "rate": 30.0, "latency_ms": 9.0, "latency_p99_ms": 30.0}
            rows.append(common | opened)
    for n in (100, N):
        for mode, S, reads in (("single", 1, 20.0), ("baton", 3, 20.0), ("scatter", 3, 50.0)):
            for L, recall in ((10, 0.90), (20, 0.98)):
                counted = {"hops": reads, "reads": reads, "pq_dists": 40 * reads, "recall": recall, "L": L, "n": n}
                if mode == "baton":
                    counted |= {"share": 0.2, "handoffs": 4.0, "state_bytes": 20.0 * L}
                method = "" if mode == "single" else "gp"
                marks = {"scenario": "work", "at": "L", "mode": mode, "S": S, "method": method}
                rows.append(common | marks | counted)
    for refill, qps in (("one", 90.0), ("all", 80.0), ("single", 50.0)):
        rows.append(common | {"scenario": "refill", "at": "run", "refill": refill, "L": 20, "qps": qps, "S": 1})
    return frame(rows, evaluate.SCHEMA)


def runs() -> pl.DataFrame:
    common = {"n": N, "S": 3, "W": 1, "L": 15, "seed": 0, "method": "gp", "data": "synthetic", "correct": True}
    rows = [
        common
        | {"scenario": "open", "mode": mode, "rate": 30.0, "query": query, "status": "ok", "latency_us": 1000 + query}
        for mode in ("baton", "scatter")
        for query in range(10)
    ]
    for replicas in (1, 2):
        for query in range(9):
            status = "failed" if replicas == 1 and query > 5 else "ok"
            fault = {"scenario": "fault", "mode": "baton", "fault": "kill", "replicas": replicas, "query": query}
            rows.append(common | fault | {"status": status, "latency_us": 1000})
    return frame(rows, run.SCHEMA)


def peers() -> pl.DataFrame:
    rows = [
        row(bench="mem", case="search, n", ours="ours", peer="hnswlib", unit="queries/s", ours_samples=[3.0, 4.0],
            peer_samples=[2.0, 2.0], higher_is_better=True, bar=1.3),
        row(bench="disk", case="search", ours="ours", peer="diskannpy-ssd", unit="queries/s", reason="not installed"),
        row(bench="transport", case="hand-offs a second, batch 1", ours="sockets", peer="Ray calls", unit="1/s",
            ours_samples=[40_000.0], peer_samples=[2_000.0], higher_is_better=True, bar=10.0),
        row(bench="transport", case="one way, 4 KiB", ours="sockets", peer="bar", unit="us", ours_samples=[40.0],
            peer_samples=[60.0], bar=1.0),
    ]  # fmt: skip
    return frame(rows, bench.SCHEMA)


def predictions() -> pl.DataFrame:
    common = {"n": 10**9, "S": 3, "W": 1, "basis": "modelled", "data": "synthetic", "mode": "baton"}
    values = {"hops": 60.0, "share": 0.1, "qps": 4000.0, "latency_ms_1000qps": 6.0}
    rows = [common | {"quantity": name, "value": value} for name, value in values.items()]
    rows[0] |= {"value_low": 40.0, "value_high": 90.0}
    return frame(rows, PREDICTED)


PREDICTED = {
    **dict.fromkeys(("quantity", "mode", "basis", "data"), pl.String),
    **dict.fromkeys(("n", "S", "W"), pl.Int64),
    **dict.fromkeys(("value", "value_low", "value_high"), pl.Float64),
}


def full() -> Tables:
    return Tables(measures(), runs(), peers(), predictions())


def promised() -> list[str]:
    """The figures the workflow asks for."""
    text = (ROOT / "workflows/batann/Snakefile").read_text()
    return re.findall(r'^    "(\w+)": ', text[text.index("FIGURES = {") : text.index("}\n")], re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """All figures of small tables."""
    made = tmp_path_factory.mktemp("plot")
    for name, table in full()._asdict().items():
        table.write_parquet(made / f"{name}.parquet")
    files = {name: made / f"{name}.parquet" for name in Tables._fields}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(figures.STYLE, "figure.constrained_layout.use", False)  # half the time goes into it
        plot.main(settings=SETTINGS, **files, out_folder=made / "figures")
    return made / "figures"


def test_every_figure_the_workflow_asks_for_is_drawn_with_its_table_and_text(folder):
    assert sorted(path.stem for path in folder.glob("*.svg")) == sorted(promised())
    for name in promised():
        assert (folder / f"{name}.svg").read_text().lstrip().startswith("<?xml")
        assert pl.read_parquet(folder / f"{name}.parquet").height, name
        assert (ROOT / f"workflows/batann/report/{name}.rst").read_text().strip(), name


@pytest.mark.parametrize("draw", [charts.overview, charts.recall, charts.servers, charts_work.width])
def test_a_rate_over_servers_is_called_metered_in_the_figure(draw):
    figure, _ = draw(full(), SETTINGS)
    words = figure.get_supxlabel().replace("\n", " ")
    assert "QPS is metered" in words
    assert "500 sectors/s" in words
    assert any("metered" in axis.get_ylabel() for axis in figure.axes)


def test_models_and_peers_say_what_they_are():
    figure, table = charts_model.prediction(full(), SETTINGS)
    assert all("not measured" in axis.get_title() for axis in figure.axes[:4])
    assert set(table["basis"]) == {"modelled", "real"}
    figure, _ = charts_model.peers(full(), SETTINGS)
    words = figure.get_supxlabel().replace("\n", " ")
    assert "hnswlib and faiss float32" in words
    assert "not measured: diskannpy-ssd" in words


@pytest.mark.parametrize(
    "draw",
    [charts_time.latency, charts_time.refill, charts_time.faults, charts_work.state, charts_model.transports,
     charts_model.peers, charts_model.prediction],
)  # fmt: skip
def test_what_was_not_run_is_said_in_words(draw):
    nothing = Tables(*(table.clear() for table in full()))
    figure, table = draw(nothing, SETTINGS)
    assert len(figure.axes[0].texts) == 1
    assert table.is_empty()


def test_values_are_interpolated_at_the_recall_target():
    found = charts.at_target(charts.work(full(), SETTINGS), SETTINGS, ("state_bytes",))
    values = found.filter((pl.col("mode") == "baton") & (pl.col("n") == N))["state_bytes"]
    assert values.to_list() == pytest.approx([200 + (0.95 - 0.90) / 0.08 * 200])
    assert found.filter(pl.col("mode") == "single")["state_bytes"].to_list() == [None, None]
