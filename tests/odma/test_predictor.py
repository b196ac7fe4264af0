"""The predictor on the twin: it learns what can be learnt, knows nothing it must not, and survives a save."""

import numpy as np
import polars as pl
import pytest

from operators.odma import ConfigError, LengthPredictor, NotFitted, sets
from operators.odma.accuracy import class_of
from operators.odma.predictor import fold_of
from operators.odma.scenarios import rule_edges


@pytest.fixture(scope="module")
def tables():
    rows, mark = sets.alpaca_rows(None, prompts=2400, seed=0)
    assert mark == "synthetic"
    frame = sets.generated(rows, prompts=2400, seed=0)
    return {side: frame.filter(pl.col("split") == side) for side in ("train", "val")}


@pytest.fixture(scope="module")
def predictor(tables):
    train = tables["train"]
    return LengthPredictor().fit(train["instruction"].to_list(), train["input"].to_list(), train["length"].to_numpy())


def texts(table):
    return table["instruction"].to_list(), table["input"].to_list()


def test_it_beats_a_constant_and_stays_below_the_ceiling(predictor, tables):
    val, lengths = tables["val"], tables["train"]["length"].to_numpy()
    found, true = predictor.predict(*texts(val)), val["length"].to_numpy()
    assert np.abs(found.mean - true).mean() < 0.8 * np.abs(np.median(lengths) - true).mean()
    for rule, size in (("s3", 1024), ("quantile", 4)):
        edges = rule_edges(rule, size, lengths)
        shares = predictor.class_shares(*texts(val), edges)
        assert shares.sum(1) == pytest.approx(np.ones(len(val)))
        hit = (shares.argmax(1) == class_of(true, edges)).mean()
        ceiling = (class_of(val["second"].to_numpy(), edges) == class_of(true, edges)).mean()
        assert np.bincount(class_of(true, edges)).max() / len(val) < hit <= ceiling + 0.03


def test_bounds_and_reservations_cover_what_they_promise(predictor, tables):
    val = tables["val"]
    found, true = predictor.predict(*texts(val)), val["length"].to_numpy()
    needs = predictor.needs(found.mean)
    assert (np.diff(found.q, axis=1) >= 0).all()
    for i, level in enumerate(predictor.levels):
        assert (true <= found.q[:, i]).mean() == pytest.approx(level, abs=0.05)
        assert (true <= needs[:, i]).mean() == pytest.approx(level, abs=0.05)


def test_a_reservation_by_cost_takes_less_memory_time(predictor, tables):
    val = tables["val"]
    found, true = predictor.predict(*texts(val)), val["length"].to_numpy()
    at = predictor.levels.index(0.9)
    held = [
        (np.clip(bound, 1, 512) * np.minimum(true, bound)).sum()
        for bound in (found.q[:, at], predictor.needs(found.mean)[:, at])
    ]
    assert held[1] < 0.95 * held[0]


def test_shuffled_lengths_teach_nothing(tables):
    """The leak test: with answers torn from their prompts only the majority is left."""
    train, val = tables["train"], tables["val"]
    shuffled = np.random.default_rng(0).permutation(train["length"].to_numpy())
    blind = LengthPredictor().fit(*texts(train), shuffled)
    edges, true = rule_edges("s3", 1024, shuffled), val["length"].to_numpy()
    hit = (blind.class_shares(*texts(val), edges).argmax(1) == class_of(true, edges)).mean()
    majority = (class_of(true, edges) == np.bincount(class_of(shuffled, edges)).argmax()).mean()
    assert hit <= majority + 0.03


def test_answers_never_reach_the_features():
    rows, _ = sets.alpaca_rows(None, prompts=400, seed=1)
    frame = sets.generated(rows, prompts=400, seed=1)
    assert set(frame.columns) == set(sets.TEXTS)
    assert not {"output", "ref_tokens_est", "len_ref"} & set(frame.columns)
    reference = sets.reference(rows, prompts=300, tested=frame, seed=1)
    train, tested = (set(table.filter(pl.col("split") == side)["prompt_id"]) for table, side in
                     ((reference, "train"), (frame, "val")))  # fmt: skip
    assert not train & tested
    by_side = reference.with_columns(side=pl.Series([sets.side_of(text) for text in reference["instruction"]]))
    assert (by_side["side"] == by_side["split"]).all()


def test_near_duplicates_share_a_side_and_a_fold():
    assert sets.side_of("List 3 facts!") == sets.side_of("list 7 FACTS")
    assert fold_of("List 3 facts!") == fold_of("list 7 FACTS")


def test_a_saved_predictor_says_the_same(predictor, tables, tmp_path):
    predictor.save(tmp_path / "p")
    again = LengthPredictor.load(tmp_path / "p")
    some = tuple(part[:40] for part in texts(tables["val"]))
    for mine, theirs in zip(predictor.predict(*some), again.predict(*some), strict=True):
        assert np.array_equal(mine, theirs)
    assert again.tau(0.9) == predictor.tau(0.9)
    assert {path.suffix for path in (tmp_path / "p").iterdir()} == {".json", ".npz"}


def test_updates_move_the_bounds(predictor, tables, tmp_path):
    predictor.save(tmp_path / "p")
    mine = LengthPredictor.load(tmp_path / "p")
    for _ in range(120):
        mine.update("Write a story", "", 500)
    assert (mine.predict(["Write a story"], [""]).q[0, 3:] >= 500).all()


def test_labels_known_on_arrival_are_used(tables):
    train = tables["train"]
    labels = ["long" if i % 2 else "short" for i in range(len(train))]
    lengths = np.where(np.arange(len(train)) % 2, 400, 40) + np.arange(len(train)) % 7
    taught = LengthPredictor().fit(*texts(train), lengths, meta=labels)
    mean = taught.predict(["anything at all"] * 3, [""] * 3, ["long", "short", "unknown"]).mean
    assert mean[0] > 2 * mean[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instruction": ["a", None]}, r"instruction\[1\] is None"),
        ({"lengths": [5, 0]}, r"lengths\[1\] is 0"),
        ({"lengths": [5, float("nan")]}, r"lengths\[1\] is nan"),
        ({"lengths": [5]}, "2, 2, 1 rows"),
        ({"instruction": [], "input": [], "lengths": []}, "empty training set"),
    ],
)
def test_impossible_training_sets_are_refused(change, message):
    given = {"instruction": ["a", "b"], "input": ["", ""], "lengths": [5, 6]} | change
    with pytest.raises(ValueError, match=message):
        LengthPredictor().fit(**given)


def test_impossible_questions_are_refused(predictor):
    with pytest.raises(NotFitted):
        LengthPredictor().predict(["a"], [""])
    with pytest.raises(ValueError, match=r"prompts\[17\] is None"):
        predictor.predict(["a"] * 17 + [None], [""] * 18)
    for levels in ((0.9, 0.5), (0.0, 0.5), (0.5, 0.5)):
        with pytest.raises(ConfigError, match="levels"):
            LengthPredictor(levels)
