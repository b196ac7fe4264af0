"""The kernels' cache follows every kernel's text, not only the caller's file."""

import shutil

from operators.metro import compiled


def test_an_edit_of_any_kernel_file_changes_the_cache(tmp_path):
    for path in compiled.HERE.glob("*.py"):
        shutil.copyfile(path, tmp_path / path.name)
    before = compiled.sources_digest(tmp_path)
    assert before == compiled.sources_digest(compiled.HERE)
    greedy = tmp_path / "greedy.py"
    greedy.write_text(greedy.read_text().replace("+= 1", "+= 3", 1))
    assert compiled.sources_digest(tmp_path) != before
    shutil.copyfile(compiled.HERE / "greedy.py", greedy)
    plot = tmp_path / "plot.py"
    plot.write_text(plot.read_text() + "# no kernel here\n")
    assert compiled.sources_digest(tmp_path) == before


def test_the_cache_in_use_is_that_folder():
    import numba

    assert compiled.sources_digest(compiled.HERE) in numba.config.CACHE_DIR
