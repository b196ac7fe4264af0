"""The downloader against a loopback server: resume, truncation, wrong content, missing files, missing recipes."""

import http.server
import json
import threading

import polars as pl
import pytest

from operators.lab import datasets, fetch
from operators.lab.fetch import FetchError

COUNTS = {"logical_count": [[layer * 1000 + expert for expert in range(4)] for layer in range(5)]}
BODY = json.dumps(COUNTS).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`; `server.cut` bytes at most on the first `server.failures` answers."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        body = self.server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cut = len(body)
        if self.server.failures:
            self.server.failures -= 1
            cut = start + self.server.cut
        self.wfile.write(body[start:cut])
        if cut < len(body):
            self.close_connection = True

    def log_message(self, *_):
        """Quiet."""


@pytest.fixture
def server():
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.files, made.requests, made.cut, made.failures = {}, [], 0, 0
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    made.base = f"http://127.0.0.1:{made.server_port}"
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def inventory(monkeypatch):
    """One set of one table converted from one JSON file."""
    from operators.llm import convert  # the converter of the real inventory

    rows = [(layer, expert, n) for layer, row in enumerate(COUNTS["logical_count"]) for expert, n in enumerate(row)]
    frame = pl.DataFrame(rows, schema={"layer": pl.Int16, "expert": pl.Int16, "tokens": pl.Int64}, orient="row")
    frame = frame.filter(pl.col("layer") >= convert.DENSE_LAYERS)
    wanted = frame.select(pl.lit("decode_a").alias("workload"), pl.lit("decode").alias("phase"), pl.all())
    spec = datasets.File("t.parquet", sha256="0" * 64, content=datasets.content_hash(wanted))
    recipe = {"to": "t.parquet", "with": "operators.llm.convert:expert_load", "from": ["x/decode_a.json"]}
    entry = datasets.Dataset(
        "demo", "demo", "https://github.com/some/repo", "c" * 40, "none", ("toy",), {"t.parquet": spec}, (recipe,)
    )
    monkeypatch.setattr(datasets, "catalogue", lambda: {"demo": entry})
    monkeypatch.setattr(fetch.time, "sleep", lambda _: None)
    return entry


PATH = f"/some/repo/{'c' * 40}/x/decode_a.json"


def test_a_set_is_fetched_converted_checked_and_placed(server, inventory, tmp_path):
    server.files[PATH] = BODY
    fetch.fetch("demo", tmp_path, base=server.base)
    assert len(datasets.read("demo", "t.parquet", tmp_path)) == 8
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_truncated_download_is_resumed(server, inventory, tmp_path):
    server.files[PATH] = BODY
    server.failures, server.cut = 2, 10
    fetch.fetch("demo", tmp_path, base=server.base)
    assert [asked for _, asked in server.requests] == [None, "bytes=10-", "bytes=20-"]
    assert datasets.present("demo", tmp_path)


def test_a_download_goes_on_where_an_earlier_run_stopped(server, tmp_path):
    server.files["/f"] = BODY
    (tmp_path / "f.part").write_bytes(BODY[:25])
    fetch.download(f"{server.base}/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == BODY
    assert server.requests == [("/f", "bytes=25-")]


def test_a_part_that_is_too_long_is_started_afresh(server, tmp_path):
    server.files["/f"] = BODY
    (tmp_path / "f.part").write_bytes(BODY * 2)
    fetch.download(f"{server.base}/f", tmp_path / "f", wait_s=0)
    assert (tmp_path / "f").read_bytes() == BODY


def test_a_download_that_never_completes_is_an_error(server, inventory, tmp_path):
    server.files[PATH] = BODY
    server.failures, server.cut = 99, 1
    with pytest.raises(FetchError, match=r"decode_a\.json: .*bytes|ended early"):
        fetch.fetch("demo", tmp_path, base=server.base)
    assert not datasets.present("demo", tmp_path)


def test_wrong_content_is_refused_and_not_placed(server, inventory, tmp_path):
    server.files[PATH] = BODY.replace(b"3001", b"3009")
    with pytest.raises(FetchError, match="damaged or of another version"):
        fetch.fetch("demo", tmp_path, base=server.base)
    assert not datasets.present("demo", tmp_path)
    server.files[PATH] = BODY  # the refused file is not taken for a finished download
    fetch.fetch("demo", tmp_path, base=server.base)
    assert datasets.present("demo", tmp_path)


def test_a_missing_file_is_not_retried(server, inventory, tmp_path):
    with pytest.raises(FetchError, match="404"):
        fetch.fetch("demo", tmp_path, base=server.base)
    assert len(server.requests) == 1


def test_a_set_without_a_full_recipe_says_where_to_get_it(inventory, tmp_path):
    inventory.files["u.parquet"] = datasets.File("u.parquet", sha256="0" * 64)
    with pytest.raises(FetchError, match=r"no recipe for u\.parquet.*github\.com/some/repo"):
        fetch.fetch("demo", tmp_path)
    assert not list(tmp_path.iterdir())


def test_recipes_of_the_inventory_name_real_converters():
    for name, entry in datasets.catalogue().items():
        for recipe in entry.fetch:
            assert recipe["to"] in entry.files, name
            if "with" in recipe:
                assert callable(fetch._converter(recipe["with"]))
