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


def test_the_cache_in_use_is_that_folder():
    import numba

    assert compiled.sources_digest(compiled.OPERATORS) in numba.config.CACHE_DIR
