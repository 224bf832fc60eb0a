"""The notebooks in JupyterLab, in a real browser: each opened, all cells run, its figures drawn.

Run where PTLIB_BROWSER is set, as `.ci/run` does, and Chromium is there. By default the notebooks run on little data;
PTLIB_LONG_FAULTS=1 runs them as they stand. With PTLIB_SCREENSHOTS=<folder> a picture of each is kept.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import papermill
import pytest

from tests.conftest import LONG

ROOT = Path(__file__).parent.parent
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FEW: dict[str, dict[str, Any]] = {
    "compare": {"checkpoints": ["efficientnet_lite0", "random/cifar_resnet8"], "seeds": 1, "n_train": 90},
    "detect": {"n_train": 12, "n_val": 8, "n_test": 12, "epochs": 1, "pretrain_epochs": 1, "control": False},
    "finetune": {"n_train": 90, "epochs": 1, "control": False, "image_size": 32},
    "generalize": {"n_train": 90, "epochs": 1, "image_size": 32, "n_corrupted": 20, "severities": [1], "n_test": 100,
                   "ways": ["probe", "full"], "corruptions": ["fog", "pixelate"]},
    "metrics": {"n_train": 90, "resamples": 300},
    "pretrain": {"methods": ["supervised"], "n_source": 360, "n_target": 90, "seeds": 1, "pretrain_epochs": 1,
                 "epochs": 1, "labels": [1, 2, 4], "growth": False, "unrelated": None},
    "segment": {"n_train": 12, "n_val": 8, "n_test": 12, "epochs": 1, "control": False},
    "select": {"checkpoints": ["efficientnet_lite0", "random/cifar_resnet8"], "validate": False, "n_train": 90},
    "text": {"n_train": 50, "n_val": 30, "n_test": 40, "epochs": 1, "labels": [1, 2], "seeds": 1, "control": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """JupyterLab on the notebooks, in a folder of their own; its address."""
    root = tmp_path_factory.mktemp("lab")
    for name, few in FEW.items():
        notebook = papermill.iorw.load_notebook_node(str(ROOT / "notebooks" / f"{name}.ipynb"))
        if not LONG:
            notebook = papermill.parameterize.parameterize_notebook(notebook, few)
        papermill.iorw.write_ipynb(notebook, str(root / f"{name}.ipynb"))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    options = [f"--ServerApp.root_dir={root}", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
               "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True", "--no-browser", "--allow-root",
               "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=", "--LabApp.collaborative=False"]  # fmt: skip
    places = {"PTLIB_OUTPUTS": str(root / "outputs"), "JUPYTER_CONFIG_DIR": str(root / "config")}
    with open(root / "lab.log", "wb") as log:
        command = [sys.executable, "-m", "jupyter", "lab", *options]
        server = subprocess.Popen(command, cwd=root, env=os.environ | places, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api/status", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (root / "lab.log").read_text()[-2000:]
                time.sleep(0.5)
        yield address, root
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.usefixtures("with_nbval")
@pytest.mark.skipif(not os.environ.get("PTLIB_BROWSER"), reason="PTLIB_BROWSER=1 runs it, as .ci/run does")
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_every_notebook_runs_in_jupyterlab(lab: tuple[str, Path]) -> None:
    from playwright.sync_api import sync_playwright

    address, root = lab
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-quic"])
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        for name in FEW:
            page.goto(f"{address}/lab/tree/{name}.ipynb?reset", timeout=120_000)
            page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.context?.isReady", timeout=120_000)
            page.evaluate(STARTED)
            page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
            page.wait_for_function(f"() => {CELLS}.at(-1).execution_count !== null", timeout=600_000)
            cells = page.evaluate(f"() => {CELLS}")
            outputs = [output for cell in cells for output in cell["outputs"]]
            said = "".join("".join(o["text"]) for o in outputs if o["output_type"] == "stream")
            assert not [o for o in outputs if o["output_type"] == "error"], f"{name}: {outputs[-1]}"
            assert not [o for o in outputs if o.get("name") == "stderr"], f"{name}: a warning that a reader sees"
            assert "The run is complete: " in said, name
            assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), name
            answer = next(o["data"]["text/plain"] for o in cells[0]["outputs"])
            assert "not yet known" not in "".join(answer), f"{name}: the answer is at the top"
            figures = sum("image/png" in o.get("data", {}) for o in outputs)
            assert figures, name
            drawn = page.evaluate(DRAWN)
            assert len(drawn) >= figures, name  # widgets draw too
            assert min(drawn) > 100, f"{name}: a figure that is not drawn"
            page.evaluate("() => window.jupyterapp.commands.execute('toc:show-panel')")
            headings = page.locator(".jp-TableOfContents-content .jp-tocItem-content")
            headings.first.wait_for(timeout=20_000)
            title = json.loads((root / f"{name}.ipynb").read_text())["cells"][0]["source"]
            assert headings.first.inner_text() in "".join(title).splitlines()[0], name
            assert headings.count() >= 4, name
            if folder := os.environ.get("PTLIB_SCREENSHOTS"):
                page.evaluate("() => { document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0 }")
                page.screenshot(path=Path(folder) / f"{name}.png")
            page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")
        browser.close()


# All cells are drawn, also those that are not in sight.
STARTED = """async () => {
  const panel = window.jupyterapp.shell.currentWidget;
  panel.content.notebookConfig = {...panel.content.notebookConfig, windowingMode: 'none'};
  await panel.sessionContext.ready;
  await panel.sessionContext.session.kernel.info;
}"""
CELLS = """window.jupyterapp.shell.currentWidget.content.model.toJSON().cells.filter(c => c.cell_type === 'code')"""
DRAWN = """async () => {
  const images = [...window.jupyterapp.shell.currentWidget.node.querySelectorAll('.jp-OutputArea-output img')];
  await Promise.all(images.map(image => image.decode().catch(() => null)));
  return images.map(image => image.naturalWidth);
}"""
