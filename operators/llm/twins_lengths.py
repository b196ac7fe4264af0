"""Synthetic twins of the answer-length sets: Alpaca with Vicuna's lengths, AlpacaEval's models, Natural Questions.

A prompt's length is latent: part comes from its template and topic (which a reader of the prompt can learn), part is
hidden; each sampled answer adds noise that grows with temperature. The latent values are carried through the real
sets' quantiles. The answer texts are filler of the right size and say nothing.
"""

import numpy as np
import polars as pl

from operators.llm.twins_requests import _ranked, quantiled
from operators.llm.twins_routing import stream
from operators.llm.twins_servegen import _normal
from operators.llm.twins_text import MODIFIERS, TEMPLATES, TOPICS, WORDS

ALPACA_ROWS, ALPACA_MEASURED = 52_002, {"train": 10_000, "val": 8_000, "reserved": 2_000}
GENERATED = (
    *((0.0, 3), (0.01, 8), (0.05, 12), (0.1, 17), (0.25, 35), (0.35, 63), (0.5, 105), (0.6, 129), (0.75, 177)),
    *((0.9, 278), (0.95, 337), (0.98, 413), (0.99, 474), (0.993, 512), (1.0, 514)),
)
REFERENCE = (
    *((0.0, 1), (0.01, 3), (0.05, 5), (0.1, 8), (0.15, 11), (0.25, 16), (0.35, 24), (0.5, 48), (0.6, 69), (0.75, 97)),
    *((0.9, 140), (0.95, 178), (0.98, 243), (0.99, 298), (1.0, 826)),
)
# How much of a column's latent value is the prompt's own; the product of two is their correlation.
OWN = {"len_ref": 0.81, "len_t00": 0.971, "len_t03": 0.94, "len_t05": 0.923, "len_t07": 0.897}
VISIBLE = {"template": 0.60, "topic": 0.18}  # shares of the prompt's own variance that its words carry
INPUT_CHARS = ((0.0, 3), (0.05, 7), (0.5, 36), (0.95, 184), (1.0, 800))
EVAL_SOURCES = {"helpful_base": 129, "koala": 156, "oasst": 188, "selfinstruct": 252, "vicuna": 80}
EVAL_CHARS = ((0.0, 12), (0.05, 31), (0.5, 100), (0.95, 518), (1.0, 1917))
# quantiles of log(1 + tokens): a model's mean, a prompt's shift, what is left
EVAL_LEVELS = (0.0, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1.0)
EVAL_MODEL = (1.88, 2.0, 3.98, 4.88, 5.40, 5.69, 5.94, 6.26, 6.44, 6.55, 6.57)
EVAL_PROMPT = (-3.2, -3.0, -2.18, -1.53, -0.3, 0.21, 0.48, 0.80, 1.15, 1.4, 1.5)
EVAL_REST = (-4.0, -2.83, -1.66, -0.84, -0.24, 0.02, 0.27, 0.77, 1.41, 2.94, 4.5)
EVAL_TOKENS = (
    *((0.0, 2), (0.01, 6), (0.05, 34), (0.1, 69), (0.25, 165), (0.5, 351), (0.75, 558), (0.9, 762), (0.95, 903)),
    *((0.98, 1110), (0.99, 1365), (0.995, 1810), (0.999, 3356), (0.9999, 7329), (1.0, 74_301)),
)
EVAL_MODELS = 208


def alpaca(*, seed: int = 0, rows: int = ALPACA_ROWS) -> pl.DataFrame:
    """Rows like those of `alpaca_52k.parquet`; lengths are measured for the same share of rows as in the real set."""
    rng = np.random.default_rng([seed, stream("lengths/alpaca")])
    template, topic, own = _prompts(rows, rng)
    generated = {name: quantiled(_ranked(_mixed(own, load, rng)), _table(name)) for name, load in OWN.items()}
    reference = np.maximum(1, generated["len_ref"] * np.exp(0.09 * rng.standard_normal(rows)))
    split = _split(rows, rng)
    measured = np.isin(split, ("train", "val"))
    # Short answers are more often asked about a given text: longer prompts, shorter answers.
    has_input = rng.random(rows) < 0.62 - 0.44 * (template + 0.5) / len(TEMPLATES)
    frame = pl.DataFrame(
        {
            "id": np.arange(rows, dtype=np.int32),
            "instruction": _instructions(template, topic, rng),
            "input": _filler(np.where(has_input, quantiled(rng.random(rows), INPUT_CHARS), 0), rng),
            "output": _filler(reference * 4.0, rng),
            "ref_tokens_est": np.rint(reference).astype(np.int32),
            "split_seqsched": split,
        }
    )
    lengths = {name: pl.Series(np.rint(values).astype(np.int32)) for name, values in generated.items()}
    keep = pl.Series(measured)
    return frame.with_columns(pl.col("split_seqsched").replace("", None)).with_columns(
        pl.when(keep).then(values).otherwise(None).alias(name) for name, values in lengths.items()
    )


def _prompts(rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Template and topic of every row, and its own latent length: visible parts and a hidden one, variance 1."""
    template, topic = rng.integers(0, len(TEMPLATES), rows), rng.integers(0, len(TOPICS), rows)
    of_template = _normal((np.arange(len(TEMPLATES)) + 0.5) / len(TEMPLATES))
    of_topic = np.random.default_rng(stream("topics")).permutation(
        _normal((np.arange(len(TOPICS)) + 0.5) / len(TOPICS))
    )
    shares = (VISIBLE["template"], VISIBLE["topic"], 1 - sum(VISIBLE.values()))
    parts = (of_template[template], of_topic[topic], rng.standard_normal(rows))
    return template, topic, sum(np.sqrt(share) * part for share, part in zip(shares, parts, strict=True))


def _mixed(own: np.ndarray, load: float, rng: np.random.Generator) -> np.ndarray:
    return load * own + np.sqrt(1 - load**2) * rng.standard_normal(len(own))


def _table(name: str) -> tuple:
    return REFERENCE if name == "len_ref" else GENERATED


def _split(rows: int, rng: np.random.Generator) -> np.ndarray:
    """train, val, reserved or empty (no measured lengths), in the real set's shares."""
    names = [name for name, n in ALPACA_MEASURED.items() for _ in range(round(n * rows / ALPACA_ROWS))]
    return rng.permutation(np.array(names + [""] * (rows - len(names)), dtype="<U8"))


def _instructions(template: np.ndarray, topic: np.ndarray, rng: np.random.Generator) -> list[str]:
    modifier = rng.integers(0, len(MODIFIERS), len(template)) * (rng.random(len(template)) < 0.75)
    triples = zip(template.tolist(), topic.tolist(), modifier.tolist(), strict=True)
    return [TEMPLATES[t].format(TOPICS[about]) + MODIFIERS[m] for t, about, m in triples]


def _filler(chars: np.ndarray, rng: np.random.Generator) -> list[str]:
    """Texts of about the wanted numbers of characters, cut out of one long text at words."""
    sizes = np.rint(chars).astype(int).tolist()
    text = " ".join(np.array(WORDS)[rng.integers(0, len(WORDS), 20_000)])
    starts = rng.integers(0, len(text) - max(sizes, default=0) - 1, len(sizes)).tolist()
    return [text[start : start + size].strip() for start, size in zip(starts, sizes, strict=True)]


def alpacaeval_prompts(*, seed: int = 0) -> pl.DataFrame:
    """Rows like those of `prompts.parquet`: 805 prompts of five sources; their words hint at the answer's length."""
    rng = np.random.default_rng([seed, stream("lengths/alpacaeval/prompts")])
    shift = _prompt_shift(seed)
    n = len(shift)
    hint = np.clip((_ranked(shift + 0.3 * rng.standard_normal(n)) * len(TEMPLATES)).astype(int), 0, len(TEMPLATES) - 1)
    texts = _instructions(hint, rng.integers(0, len(TOPICS), n), rng)
    wanted = quantiled(_ranked(rng.random(n)), EVAL_CHARS)
    more = _filler(np.maximum(wanted - np.array([len(text) for text in texts]) - 1, 0), rng)
    prompts = [
        f"{text} {rest}".strip() if rest else text[: int(size)]
        for text, rest, size in zip(texts, more, wanted, strict=True)
    ]
    sources = [name for name, count in EVAL_SOURCES.items() for _ in range(count)]
    ids = pl.Series("prompt_id", range(n), pl.Int32)
    return pl.DataFrame({"prompt_id": ids, "source": sources, "prompt": prompts})


def _prompt_shift(seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, stream("lengths/alpacaeval/shift")])
    return _at(_ranked(rng.random(sum(EVAL_SOURCES.values()))), EVAL_PROMPT)


def _at(u: np.ndarray, values: tuple[float, ...]) -> np.ndarray:
    return np.interp(u, EVAL_LEVELS, values)


def alpacaeval_lengths(*, seed: int = 0, models: int = EVAL_MODELS) -> pl.DataFrame:
    """Rows like those of `lengths.parquet`: one per model and prompt."""
    rng = np.random.default_rng([seed, stream("lengths/alpacaeval")])
    shift = _prompt_shift(seed)
    shift = shift - shift.mean()
    mean = _at(_ranked(rng.random(models)), EVAL_MODEL)
    rest = _at(_ranked(rng.random(models * len(shift))), EVAL_REST).reshape(models, -1)
    latent = (mean[:, None] + shift + rest).ravel()
    tokens = np.rint(quantiled(_ranked(latent), EVAL_TOKENS)).astype(np.int32)
    frame = pl.DataFrame(
        {
            "prompt_id": np.tile(np.arange(len(shift), dtype=np.int32), models),
            "model": np.repeat([f"model-{i:03d}" for i in range(models)], len(shift)),
            "tokens_est": tokens,
            "chars": np.rint(tokens * 3.97 * np.exp(0.12 * rng.standard_normal(tokens.size))).astype(np.int32),
        }
    )
    return frame.with_columns(pl.col("model").cast(pl.Categorical))


def nq_open(*, seed: int = 0, rows: int = 5_379) -> pl.DataFrame:
    """Rows like those of `nq_open_questions.parquet`: short questions without lengths."""
    rng = np.random.default_rng([seed, stream("lengths/nq_open")])
    starts = (
        "when was the first",
        "who started the",
        "how many kinds of",
        "where did the idea of",
        "what is the name of",
    )
    ask, about = rng.integers(0, len(starts), rows), rng.integers(0, len(TOPICS), rows)
    tail = _filler(rng.integers(5, 30, rows).astype(float), rng)
    questions = [
        f"{starts[a]} {TOPICS[b]} {rest}" for a, b, rest in zip(ask.tolist(), about.tolist(), tail, strict=True)
    ]
    split = np.where(np.arange(rows) < round(rows * 3610 / 5379), "dev", "efficientqa_test")
    counts = {"n_answers": rng.geometric(0.6, rows), "max_answer_words": rng.geometric(0.4, rows)}
    return pl.DataFrame({"split": split, "question": questions, **counts}).with_columns(
        pl.col("n_answers", "max_answer_words").cast(pl.Int64)
    )
