"""A user's own log: read, mapped, split, served; mistakes named."""

import numpy as np
import polars as pl
import pytest

from operators.llm.workloads import TraceError
from operators.warmserve import advise, ownlog
from operators.warmserve.errors import ConfigError
from tests.warmserve.traces import settings


def log(path, *, models=("chat", "code"), n=400, seconds=1200.0):
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "arrival_s": np.sort(rng.uniform(0, seconds, n)),
            "model": rng.choice(models, n).tolist(),
            "input_tokens": rng.integers(1, 4000, n),
            "output_tokens": rng.integers(1, 300, n),
        }
    )
    frame.write_csv(path)
    return frame


def test_a_csv_becomes_a_report(tmp_path, capsys):
    log(tmp_path / "log.csv")
    out = tmp_path / "table.parquet"
    advise.main(settings=settings(), log=tmp_path / "log.csv", names="chat=7b-a,code=70b", out=out)
    text = capsys.readouterr().out
    table = pl.read_parquet(out)
    assert table["policy"].to_list() == list(advise.POLICIES)
    assert (table["ttft_p99_s"] >= table["ttft_p50_s"]).all()
    assert "A perfect forecast would take" in text
    assert "for nothing" in text


def test_what_is_served_is_the_end_and_the_past_lies_before_it(tmp_path):
    log(tmp_path / "log.csv", seconds=2400.0)
    frame = ownlog.read(tmp_path / "log.csv", "chat=7b-a,code=70b")
    trace, history, changed = ownlog.split(frame, settings(), 0.75)
    assert changed.hours * 3600 == pytest.approx(600, rel=0.02)
    assert len(trace.arrival_s) == (frame["arrival_s"] >= frame["arrival_s"][-1] - changed.hours * 3600).sum()
    assert [len(one) for one in history.mean] == [3, 3, 3, 3]
    assert trace.input_tokens.max() <= 1024
    assert history.mean[1].sum() == 0.0  # 7b-b serves nothing


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda f: f.drop("model"), TraceError, "no column 'model'"),
        (lambda f: f.with_columns(output_tokens=pl.lit(0)), TraceError, "row 0"),
        (lambda f: f.head(0), TraceError, "empty|no row"),
        (lambda f: f.reverse(), TraceError, "row 1"),
        (lambda f: f, ConfigError, "row 0: model '(chat|code)'; expected one of"),
    ],
)
def test_a_bad_log_is_refused(tmp_path, change, error, words):
    change(log(tmp_path / "log.csv")).write_csv(tmp_path / "bad.csv")
    with pytest.raises(error, match=words):
        ownlog.split(ownlog.read(tmp_path / "bad.csv"), settings(), 0.5)
    with pytest.raises(ValueError, match="history_share"):
        advise.main(settings=settings(), log=tmp_path / "log.csv", history_share=1.0)
    with pytest.raises(ValueError, match="log-name=model"):
        ownlog.read(tmp_path / "log.csv", "chat")


def test_published_forms_are_known_by_their_columns(tmp_path):
    path = tmp_path / "burst.csv"
    path.write_text(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        + "".join(f"{i * 3},ChatGPT,{10 + i},{5 + i % 7},20,Conversation log\n" for i in range(200))
    )
    frame = ownlog.read(path, "ChatGPT=13b")
    assert frame["model"].unique().to_list() == ["13b"]
    assert len(ownlog.split(frame, settings(), 0.5)[0].arrival_s) > 50
    path = tmp_path / "azure.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        + "".join(f"2024-05-12 00:{i // 60:02d}:{i % 60:02d}.000000,{10 + i},{5 + i % 7}\n" for i in range(200))
    )
    assert ownlog.read(path, "log=7b-a")["model"].unique().to_list() == ["7b-a"]


def test_an_unknown_model_in_the_past_is_refused_too():
    frame = pl.DataFrame(
        {
            "arrival_s": [0.0, 1.0, 200.0],
            "model": ["7b-a", "nobody", "7b-a"],
            "input_tokens": [5, 5, 5],
            "output_tokens": [5, 5, 5],
        }
    )
    with pytest.raises(ConfigError, match="row 1: model 'nobody'; expected one of 7b-a"):
        ownlog.split(frame, settings(), 0.5)
