"""Logs, instances, twins: what is read, what is refused and how."""

import gzip

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.phwsoa import bounds, heuristics, instance, objectives, sources, swf, twins
from operators.phwsoa.instance import InfeasibleTask, Instance
from tests.phwsoa.cases import related

LINE = "1 0 5 {run} 4 -1 -1 4 100 -1 1 3 1 -1 0 -1 -1 -1"
GOOD = "; a comment\n" + "\n".join(LINE.format(run=run) for run in (10, 0, 20)) + "\n"


def test_a_log_is_read_in_every_form(tmp_path):
    import zipfile

    (tmp_path / "a.swf").write_text(GOOD)
    (tmp_path / "a.swf.gz").write_bytes(gzip.compress(GOOD.encode()))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.swf", GOOD)
    swf.load_swf(GOOD.encode()).write_parquet(tmp_path / "a.parquet")
    for name in ("a.swf", "a.swf.gz", "a.zip", "a.parquet"):
        assert swf.load_swf(tmp_path / name)["run_time"].to_list() == [10, 20], name


def test_bad_logs_name_file_and_line(tmp_path):
    with pytest.raises(swf.SwfFormatError, match="line 3: 2 fields") as caught:
        swf.load_swf((GOOD[: GOOD.index("\n", 15) + 1] + "1 2\n").encode())
    assert caught.value.line_no == 3
    with pytest.raises(swf.SwfFormatError, match="line 2: run_time"):
        swf.load_swf(("; x\n" + LINE.format(run="x")).encode())
    cut = tmp_path / "cut.swf.gz"
    cut.write_bytes(gzip.compress(np.random.default_rng(0).bytes(50).hex().encode() * 3)[:-12])
    with pytest.raises(swf.SwfFormatError, match=r"cut\.swf\.gz.*truncated"):
        swf.load_swf(cut)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 no")
    with pytest.raises(swf.SwfFormatError, match=r"broken\.parquet"):
        swf.load_swf(broken)
    with pytest.raises(swf.EmptyLog):
        swf.load_swf(b"; nothing\n")
    with pytest.raises(swf.EmptyLog, match="none with run_time"):
        swf.load_swf(LINE.format(run=-1).encode())
    with pytest.raises(ValueError, match=r"job 1: run_time \(=0\)"):
        swf.load_swf(LINE.format(run=0).encode(), drop_nonpositive=False)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_refused_and_never_crashes_the_reader(raw):
    try:
        frame = swf.load_swf(raw)
    except ValueError:
        return
    assert (frame["run_time"] > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": [1.0, np.nan]}, r"length\[1\] \(=nan\)"),
        ({"length": [1.0, -2.0]}, r"length\[1\] \(=-2.0\)"),
        ({"mips": [0.0, 1.0]}, r"mips\[0\]"),
        ({"mips": [], "price": []}, "mips: empty"),
        ({"price": [1.0]}, r"price: shape \(1,\)"),
        ({"etc": [[1.0, 2.0]]}, "etc: shape"),
        ({"pes": [1.5, 2.0]}, "pes: float64"),
    ],
)
def test_impossible_instances_name_field_and_index(change, message):
    with pytest.raises(ValueError, match=message):
        Instance(**({"length": [1.0, 2.0], "mips": [1.0, 1.0], "price": [1.0, 1.0]} | change))


def test_wrong_genes_and_wide_tasks_are_named():
    made = Instance([1.0, 2.0], [1.0, 1.0], [1.0, 1.0], pes=[1, 2], vm_pes=[1, 2])
    with pytest.raises(ValueError, match=r"assign\[1, 1\] \(=2\)"):
        objectives.evaluate(Instance([1.0, 2.0], [1.0, 1.0], [1.0, 1.0]), [[1, 0], [0, 2]])
    with pytest.raises(ValueError, match="expected integers"):
        made.check_assignment([0.0, 0.5])
    with pytest.raises(InfeasibleTask, match="task 1: needs 2 PEs"):
        made.check_assignment([0, 0])
    with pytest.raises(InfeasibleTask, match="task 0: needs 3 PEs"):
        Instance([1.0], [1.0], [1.0], pes=[3], vm_pes=[2])


def test_cost_is_degenerate_exactly_at_one_price_per_mips():
    jobs = pl.DataFrame({"run_time": [5, 6, 7]})
    assert instance.five_class(jobs, 3, 4, 0, price="constant").cost_degenerate
    assert not instance.five_class(jobs, 3, 4, 0).cost_degenerate
    constant = instance.five_class(jobs, 3, 4, 0, price="constant")
    costs = objectives.evaluate(constant, np.random.default_rng(0).integers(0, 4, (20, 3)))[:, 2]
    assert np.ptp(costs) < 1e-12


def test_transfer_times_make_machines_unrelated():
    made = related(6, 3)
    moved = instance.with_transfer(made, np.arange(6.0), np.array([1.0, 2.0, 4.0]))
    assert moved.et()[4, 1] == pytest.approx(made.et()[4, 1] + 2.0)
    assert np.array_equal(instance.with_transfer(made, np.zeros(6), np.ones(3)).et(), made.et())
    with pytest.raises(ValueError, match=r"bandwidth\[1\]"):
        instance.with_transfer(made, np.ones(6), np.array([1.0, 0.0, 1.0]))
    with pytest.raises(ValueError, match="megabytes: shape"):
        instance.with_transfer(made, np.ones(5), np.ones(3))


# log, n, m, bound (s), LPT, MCT and round robin over it: section 4 of the design, seed 0.
TABLE = [
    ("nasa", 200, 50, 7904.400, 1.0000, 1.189, 2.87),
    ("nasa", 400, 10, 18930.800, 1.0001, 1.134, 3.52),
    ("nasa", 1000, 50, 8612.152, 1.0001, 1.335, 5.55),
    ("nasa", 2000, 50, 17039.186, 1.0001, 1.567, 5.27),
    ("hpc2n", 200, 50, 96151.600, 1.0000, 1.008, 6.14),
    ("hpc2n", 400, 10, 500950.000, 1.0000, 1.097, 3.71),
    ("hpc2n", 500, 50, 109722.441, 1.0009, 1.609, 6.71),
    ("hpc2n", 1000, 50, 143393.572, 1.0000, 1.231, 5.44),
]


@pytest.mark.parametrize(("log", "n", "m", "bound", "lpt", "mct", "robin"), TABLE)
def test_the_checked_table_on_the_real_logs(log, n, m, bound, lpt, mct, robin, real_data):
    jobs, data = sources.jobs(log, real_data)
    if data != "real":
        pytest.skip("needs the real logs")
    made = instance.five_class(jobs, n, m, 0)
    low = bounds.lower_bound(made)
    found = [objectives.evaluate(made, heuristics.HEURISTICS[k](made))[0, 0] / low for k in ("lpt", "mct")]
    assert low == pytest.approx(bound, abs=6e-4)
    assert found == pytest.approx([lpt, mct], abs=6e-4)
    assert found[0] == pytest.approx(lpt, abs=1e-4)
    assert objectives.evaluate(made, heuristics.round_robin(made))[0, 0] / low == pytest.approx(robin, abs=6e-3)


@pytest.mark.parametrize("log", ["nasa", "hpc2n"])
def test_a_twin_has_the_real_logs_statistics(log, real_data):
    jobs, data = sources.jobs(log, real_data)
    if data != "real":
        pytest.skip("needs the real logs")
    twin = twins.log_twin(log, 12_000, 0).filter(pl.col("run_time") > 0)
    for share, tolerance in ((0.5, 0.10), (0.9, 0.20), (0.99, 0.20)):
        assert twin["run_time"].quantile(share) == pytest.approx(jobs["run_time"].quantile(share), rel=tolerance)
    assert twin["run_time"].mean() == pytest.approx(jobs["run_time"].mean(), rel=0.15)
    shares = [swf.processors(frame) for frame in (twin, jobs)]
    sizes = np.union1d(*shares)
    distance = 0.5 * sum(abs((shares[0] == size).mean() - (shares[1] == size).mean()) for size in sizes)
    assert distance < 0.05


def test_etc_twins_equal_the_set_bit_for_bit(real_data):
    from operators.lab import datasets

    if not datasets.present(sources.ETC_SET, real_data):
        pytest.skip("needs the ETC set")
    known = np.load(datasets.path(sources.ETC_SET, "etc_seed0.npz", real_data))
    for key in twins.ETC_KEYS:
        assert np.array_equal(known[key], twins.etc_twin(key)), key
