"""Which files a stage depends on."""

from pathlib import Path

import pytest

from operators.lab import code


def test_a_stage_reaches_its_library_and_not_its_neighbours(monkeypatch, tmp_path):
    package = tmp_path / "operators"
    for name, text in {
        "__init__.py": "",
        "lab/__init__.py": "",
        "lab/stage.py": "import os",
        "demo/__init__.py": "",
        "demo/a.py": "from operators.lab import stage\ndef f():\n    from operators.demo import b\n",
        "demo/b.py": "import operators.demo._native\nfrom operators.demo.c import thing",
        "demo/c.py": "thing = 1",
        "demo/d.py": "from operators.demo import a",
        "demo/native/core.c": "",
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    monkeypatch.setattr(code, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    code._imported.cache_clear()
    found = {Path(file).name for file in code.sources("operators.demo.a")}
    assert {"a.py", "b.py", "c.py", "stage.py", "core.c"} <= found
    assert "d.py" not in found
    with pytest.raises(ValueError, match="nothing"):
        code.sources("operators.demo.nothing")
