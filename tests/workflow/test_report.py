"""The HTML report opened in a browser and clicked through: the claims table and the figure are there."""

import base64
import html
import json
import re
import shutil
import subprocess

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--virtual-time-budget=15000",
)
# Clicks through the page as a reader does and leaves what it saw in an element of its own.
CLICKS = """<script>
const saw = [];
function click(word) {
  const found = word.startsWith('eye')
    ? document.querySelectorAll('a[iconname=eye]')[Number(word.slice(3))]
    : [...document.querySelectorAll('a')].filter(a => a.innerText.trim() === word).pop();
  if (found) found.click();
  return Boolean(found);
}
function look(word) {
  saw.push({clicked: word,
            frames: [...document.querySelectorAll('iframe')].map(frame => frame.src),
            images: [...document.images].map(image => [image.src.slice(0, 80), image.naturalWidth]),
            text: document.getElementById('app').innerText});
}
const words = ['Results', 'toy', 'eye0', 'eye1'];
setTimeout(function step() {
  const word = words.shift();
  if (!word) {
    const pre = document.createElement('pre');
    pre.id = 'saw';
    pre.textContent = JSON.stringify(saw);
    document.body.appendChild(pre);
  } else if (click(word)) setTimeout(() => { look(word); step(); }, 1000);
  else setTimeout(step, 10);
}, 2000);
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: the report is not opened")
def test_a_reader_finds_the_claims_and_the_figure(finished, tmp_path):
    assert finished.snakemake("report").returncode == 0
    before, _, after = (finished.root / "results/report.html").read_text().rpartition("</body>")
    (tmp_path / "page.html").write_text(before + CLICKS + after)
    shown = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom", f"file://{tmp_path / 'page.html'}"],
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    saw = json.loads(html.unescape(re.search(r'<pre id="saw">(.*?)</pre>', shown, re.DOTALL)[1]))
    assert [one["clicked"] for one in saw] == ["Results", "toy", "eye0", "eye1"]
    assert "claims" in saw[1]["text"]
    assert "means" in saw[1]["text"]
    table = base64.b64decode(saw[2]["frames"][0].partition("base64,")[2]).decode()
    assert "toy-half" in table
    assert 'class="reproduced"' in table
    assert '"rows": 10' in html.unescape(table)
    figure = [width for source, width in saw[3]["images"] if "mean.svg" in source]
    assert figure
    assert figure[0] > 100
