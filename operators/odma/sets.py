"""The length sets as tables of one form: real where they are, else their twins; who trains and who tests.

Columns: prompt_id, instruction, input, label (what is known on arrival beside the text, "" for nothing), length, second
(a second sample of the same model, 0 where there is none), split. Answers never pass this door: `output`, estimates and
other lengths stay behind. Given splits are kept; elsewhere a prompt's hash decides, so near-duplicates share a side.
"""

import hashlib
from pathlib import Path

import numpy as np
import polars as pl

from operators.lab import datasets
from operators.llm import twins

ALPACA, HARD = ("alpaca-lengths", "alpaca_52k.parquet"), "alpacaeval-lengths"
MEASURED_SHARE = 18_000 / 52_002
GAMED_MEAN = 100.0  # tokens: a model that answers every prompt alike to please a judge is no length model
TEXTS = ("prompt_id", "instruction", "input", "label", "length", "second", "split")


def side_of(prompt: str) -> str:
    """`train` for eight prompts in ten, by hash of their letters."""
    plain = "".join(letter for letter in prompt.lower() if letter.isalpha())
    return "train" if int(hashlib.sha1(plain.encode()).hexdigest()[:8], 16) % 10 < 8 else "val"


def alpaca_rows(data: Path | None, *, prompts: int, seed: int) -> tuple[pl.DataFrame, str]:
    """Rows of the Alpaca set, and `real` or `synthetic`; a smaller twin when few prompts are wanted."""
    if datasets.present(ALPACA[0], data):
        return datasets.read(*ALPACA, data), "real"
    return twins.alpaca(seed=seed, rows=min(52_002, round(prompts / MEASURED_SHARE) + 20)), "synthetic"


def generated(rows: pl.DataFrame, *, prompts: int, seed: int) -> pl.DataFrame:
    """The prompts with measured lengths (Vicuna-7B, T 0.7; second sample T 0.5), `prompts` of them."""
    some = rows.filter(pl.col("len_t07").is_not_null())
    if prompts < len(some):
        order = np.random.default_rng([seed, 11]).permutation(len(some))[:prompts]
        some = some[np.sort(order)]
    return _form(some, "len_t07", "len_t05", pl.col("split_seqsched"))


def reference(rows: pl.DataFrame, *, prompts: int, tested: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Reference answers: `prompts` train (none of the prompts in `tested`), those of the hash's other side test."""
    sides = pl.Series([side_of(text) for text in rows["instruction"]])
    frame = _form(rows, "ref_tokens_est", None, pl.lit("")).with_columns(split=sides)
    forbidden = pl.col("prompt_id").is_in(tested.filter(pl.col("split") == "val")["prompt_id"].implode())
    train = frame.filter((pl.col("split") == "train") & ~forbidden)
    order = np.random.default_rng([seed, 12]).permutation(len(train))[:prompts]
    return pl.concat([train[np.sort(order)], frame.filter(pl.col("split") == "val")])


def switched(rows: pl.DataFrame, tested: pl.DataFrame) -> pl.DataFrame:
    """The test prompts of `tested` with the lengths of their reference answers: another model's stream."""
    both = tested.filter(pl.col("split") == "val").select("prompt_id").join(
        rows.select(prompt_id=pl.col("id"), length=pl.col("len_ref"), instruction="instruction", input="input"),
        on="prompt_id", maintain_order="left",
    )  # fmt: skip
    return both.with_columns(label=pl.lit(""), second=pl.lit(0, pl.Int32), split=pl.lit("val")).select(TEXTS)


def hard(data: Path | None, *, models: int, longest: int, seed: int) -> tuple[pl.DataFrame, str]:
    """AlpacaEval prompts with the lengths of `models` models spread by mean length; the label is the model.

    A prompt is on one side for all models. Lengths above `longest` are cut there.
    """
    if datasets.present(HARD, data):
        prompts, lengths = (datasets.read(HARD, f"{name}.parquet", data) for name in ("prompts", "lengths"))
        mark = "real"
    else:
        prompts, lengths = twins.alpacaeval_prompts(seed=seed), twins.alpacaeval_lengths(seed=seed)
        mark = "synthetic"
    lengths = lengths.with_columns(model=pl.col("model").cast(pl.String))
    means = lengths.group_by("model").agg(pl.col("tokens_est").mean()).sort("tokens_est", "model")
    honest = means.filter(pl.col("tokens_est") >= GAMED_MEAN)["model"]
    chosen = honest.gather(np.unique(np.linspace(0, len(honest) - 1, models).astype(int)))
    sides = prompts.with_columns(split=pl.Series([side_of(text) for text in prompts["prompt"]]))
    frame = (
        lengths.filter(pl.col("model").is_in(chosen.implode())).join(sides, on="prompt_id").sort("model", "prompt_id")
    )
    frame = frame.select(
        prompt_id=pl.col("prompt_id").cast(pl.Int32),
        instruction="prompt",
        input=pl.lit(""),
        label="model",
        length=pl.col("tokens_est").clip(1, longest).cast(pl.Int32),
        second=pl.lit(0, pl.Int32),
        split="split",
    )
    return frame.select(TEXTS), mark


def _form(rows: pl.DataFrame, length: str, second: str | None, split: pl.Expr) -> pl.DataFrame:
    return rows.select(
        prompt_id=pl.col("id").cast(pl.Int32),
        instruction="instruction",
        input=pl.col("input").fill_null(""),
        label=pl.lit(""),
        length=pl.col(length).clip(1).cast(pl.Int32),
        second=pl.col(second).cast(pl.Int32) if second else pl.lit(0, pl.Int32),
        split=split,
    )


def prompt_tokens(frame: pl.DataFrame) -> pl.Series:
    """Tokens of the prompts: characters / 4, and 20 for the template round them (our choice)."""
    chars = frame["instruction"].str.len_chars() + frame["input"].str.len_chars()
    return (chars // 4 + 20).cast(pl.Int32)
