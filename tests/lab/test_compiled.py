"""The kernels' cache follows every kernel's text, not only the caller's file."""

import shutil

from operators.lab import compiled


def test_an_edit_of_any_kernel_file_changes_the_cache(tmp_path):
    shutil.copytree(compiled.OPERATORS, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    before = compiled.sources_digest(tmp_path)
    assert before == compiled.sources_digest(compiled.OPERATORS)
    greedy = tmp_path / "metro" / "greedy.py"
    greedy.write_text(greedy.read_text().replace("+= 1", "+= 3", 1))
    assert compiled.sources_digest(tmp_path) != before
    shutil.copyfile(compiled.OPERATORS / "metro" / "greedy.py", greedy)
    plot = tmp_path / "metro" / "plot.py"
    plot.write_text(plot.read_text() + "# no kernel here\n")
    assert compiled.sources_digest(tmp_path) == before


@compiled.inner
def doubled(x, times):
    """A function for kernels."""
    return 2.0 * x * times


@compiled.kernel
def called(x):
    """Calls it with a constant, with a variable that starts as one, and with a plain number."""
    count, total = 0, 0.0
    for k in range(3):
        total += doubled(x, count) + doubled(x, 1) + doubled(x, k)
        count += 1  # noqa: SIM113 - this is what is tested
    return total


def test_a_constant_argument_is_no_version_of_its_own():
    assert called(1.0) == 2.0 * (0 + 1 + 2 + 3 + 0 + 1 + 2)
    assert len(doubled.signatures) == 1


def test_the_cache_in_use_is_that_folder():
    import numba

    assert compiled.sources_digest(compiled.OPERATORS) in numba.config.CACHE_DIR
