"""A page and a card of a run: complete, without a network, no stranger's code in them; what `list` shows."""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

import ptlib as pt
from ptlib import cli, page, plots
from ptlib.core import Checkpoint
from ptlib.listing import LISTS
from ptlib.publishing import publish
from ptlib.stages import History
from tests.conftest import make_task, silent
from tests.test_hostile_data import NAMES
from tests.test_verification import notebook

PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n....").decode()
MATHS = r"""# A title

$$L(\theta) = \sum_{i=1}^{N} \ell\big(y_i, f(x_i; \theta)\big)$$

## One

with $\frac{1}{n}$"""
EVIL = [
    "<script>alert(1)</script>", '<img src="http://x.example/a.png" onerror="alert(1)">', "<style>@import 'x'</style>",
    '<a href="javascript:alert(1)">x</a>', "<svg onload=alert(1)>", "<iframe src=//x></iframe>",
    '<meta http-equiv="refresh" content="0;url=//x">', "<table><tr><td onclick=alert(1)>7</td></tr></table>",
    "</pre><script>1</script>", r'$\text{<meta/http-equiv="refresh"/content="0;url=//x">}$', "$ $", "$\\text$",
    "\n\n```mermaid\n</pre><meta http-equiv=refresh content=0><script>1</script>\n```\n\n", r"$\href{//x}{a}$ $a<b$",
]  # fmt: skip


class Elements(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of a task of hostile names, and the notebook that made it."""
    root = tmp_path_factory.mktemp("outputs")
    asked = {"dataset": "digits", "seed": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTLIB_OUTPUTS", str(root))
        task = pt.load_task("digits", None, 60, 0, n_test=40)
        task = replace(task, name="digits | <b>$x$", class_names=tuple(n for n in NAMES if n.strip())[:10])
        model = pt.build_model(pt.load_checkpoint("random/cifar_resnet8"), task, 16)
        history = pt.finetune(model, task, [pt.Stage("all", epochs=1)], log=silent, device="cpu", precision="fp32")
        said = pt.predict(model, task.test, task, "cpu", "fp32")
        reports = {name: pt.evaluate(said, resamples=100) for name in ("test", "another | one")}
        found: dict[str, Any] = {"predictions": {"test": said, "another | one": said}, "reports": reports}
        path = pt.save_run("finetune", asked, task=task, model=model, history=history, **found, run_name="run")
    made = notebook(root / "out.ipynb", "anything\n", f"a result\n{pt.completed(path)}\n")
    cells = json.loads(made.read_text())["cells"]
    datas = [("text/html", EVIL), ("image/png", [PIXEL, EVIL[0], "%%%"]), ("application/javascript", ["alert(1)"])]
    shown: list[dict[str, Any]] = [
        {"output_type": "display_data", "data": {kind: data, "text/plain": "x"}, "metadata": {}}
        for kind, each in datas
        for data in each
    ]
    answer = {"text/html": "<p><strong>Answer:</strong> 7</p>", "text/plain": "Answer: 7"}
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "interactive(...)"}
    shown += [{"output_type": "display_data", "data": data, "metadata": {}} for data in (answer, widget)]
    shown.append({"output_type": "stream", "name": "stdout", "text": EVIL})
    shown.append({"output_type": "error", "ename": "<b>E", "evalue": EVIL[0], "traceback": EVIL})
    first = {
        "cell_type": "markdown",
        "source": ["\n\n".join([MATHS, *EVIL]), "\n\n[x](javascript:alert(1)) ![x](http://x.example/a.png)"],
    }
    made.write_text(
        json.dumps({"cells": [first, {"cell_type": "code", "source": ["secret_code()"], "outputs": shown}, *cells]})
    )
    return path


def test_the_page_is_one_file_without_code_that_loads_and_runs_nothing(run: Path, tmp_path: Path) -> None:
    written = publish(run.parent / "out.ipynb", tmp_path / "to")
    assert [p.name for p in written] == ["report.html", "README.md"]
    text = written[0].read_text()
    found = Elements(text)
    assert not {"script", "iframe", "svg", "link", "object", "embed", "base", "form"} & set(found.tags)
    assert found.tags.count("style") == 1
    assert found.tags.count("meta") == 3
    assert all(value.startswith("data:image/png;base64,") for name, value in found.attributes if name == "src")
    assert not [name for name, value in found.attributes if name.startswith("on") or "javascript" in value.lower()]
    assert ("http-equiv", "Content-Security-Policy") in found.attributes
    assert "default-src 'none'" in page.POLICY
    assert {"math", "mfrac", "munderover"} <= set(found.tags), "mathematics without a script"
    assert "$$L" not in text
    assert "secret_code" not in text
    assert f"data:image/png;base64,{PIXEL}" in text
    assert "a figure that can't be read" in text
    assert '<div class="answer"><p><strong>Answer:</strong> 7</p></div>' in text
    assert "interactive(" not in text
    assert "<title>A title</title>" in text
    assert '<nav><a href="#one">One</a></nav>' in text
    for fact in (
        "ptlib verify run",
        "parameter dataset",
        json.loads((run / "run.json").read_text())["made_by"]["data"],
    ):
        assert fact in text


def test_the_card_is_read_by_the_hub_and_says_intervals_data_limits_and_how_to_verify(
    run: Path, tmp_path: Path
) -> None:
    assert cli.main(["report", str(run), "--to", str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text()
    card: Any = ModelCard(text).data
    assert card.pipeline_tag == "image-classification"
    assert card.library_name == "ptlib"
    report = pt.Report.load(run / "report.json")
    results = {r.metric_type: r for r in card.eval_results}
    assert results["accuracy"].metric_value == report["accuracy"].value
    assert results["accuracy"].metric_name == (
        f"accuracy, 95 % interval {report['accuracy'].low:.3f} to {report['accuracy'].high:.3f}"
    )
    for part in ("## Results", "## Data", "## How it was trained", "## Limits", "## Use", "## Verify", "ptlib verify"):
        assert part in text
    assert json.loads((run / "run.json").read_text())["task"]["fingerprint"] in text
    assert yaml.safe_load(text.split("---")[1])["model-index"][0]["name"] == "run"
    body = text.split("---\n", 2)[2]
    assert "<b>" not in body.replace("\\<b\\>", ""), "a name of a stranger is no markup"
    assert "another \\| one" in body
    shown = page.markdown(body.replace("```", "\n```"))
    assert not {"b", "script", "img"} & set(Elements(shown).tags)


def test_a_run_finds_its_notebook_and_without_one_has_its_card(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PTLIB_OUTPUTS", str(run.parent))
    monkeypatch.chdir(tmp_path)
    assert [p.name for p in publish("run")] == ["report.html", "README.md"]
    assert (run.parent / "run.report" / "report.html").is_file()
    assert next(pt.verify(run, device="cpu")), "the run is not touched"
    (run.parent / "gone.unfinished").mkdir()
    of_gone = (run.parent / "out.ipynb").read_text().replace("/run [sha256", "/gone [sha256")
    (run.parent / "begun.ipynb").write_text(of_gone)
    (run.parent / ".#out.ipynb").symlink_to("nowhere")
    for place in (str(run), "."):
        monkeypatch.chdir(run)
        with pytest.raises(pt.InputError, match="is the folder of a run"):
            publish(place, run)
    monkeypatch.chdir(tmp_path)
    assert next(pt.verify(run, device="cpu")), "nothing was added to the run"
    aside = (run.parent / "out.ipynb").rename(tmp_path / "elsewhere.txt")
    try:
        assert [p.name for p in publish("run", tmp_path)] == ["README.md"]
        assert cli.main(["report", "no-run"]) == 1
        assert "there is no run 'no-run'" in capsys.readouterr().err
        half = notebook(tmp_path / "half.ipynb", "no end\n")
        assert cli.main(["report", str(half)]) == 1
        assert "is not complete" in capsys.readouterr().err
    finally:
        aside.rename(run.parent / "out.ipynb")
    (run / "report.json").write_bytes((run / "report.json").read_bytes() + b" ")
    try:
        assert cli.main(["report", str(run)]) == 1
        assert "not as it was saved" in capsys.readouterr().err
    finally:
        (run / "report.json").write_bytes((run / "report.json").read_bytes()[:-1])


def test_a_notebook_that_is_none_is_refused_with_one_sentence(run: Path, tmp_path: Path) -> None:
    cells = json.loads((run.parent / "out.ipynb").read_text())["cells"]
    for odd in (
        {"cell_type": "code"},
        {"cell_type": "markdown"},
        7,
        {"cell_type": "code", "source": [], "outputs": [{}]},
    ):
        bad = run.parent / "bad.ipynb"
        bad.write_text(json.dumps({"cells": [odd, *cells]}))
        with pytest.raises(pt.InputError, match=r"can't be read"):
            publish(bad, tmp_path / "none")
        bad.unlink()
    assert not (tmp_path / "none").exists()


def test_list_shows_what_can_be_named(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PTLIB_OUTPUTS", str(run.parent))
    pt.start_run("finetune", {}, run_name="begun")
    (run.parent / "odd").mkdir()
    (run.parent / "odd" / "run.json").write_text("{")
    for name, text in (("null", '{"notebook": null}'), ("seven", "7"), (".new-x", "{}")):
        (run.parent / name).mkdir()
        (run.parent / name / "run.json").write_text(text)
    assert cli.main(["list"]) == 0
    said = capsys.readouterr().out
    for part in ("efficientnet_lite0", "photos", "notebooks/finetune.ipynb", "How do I adapt a pretrained model"):
        assert part in said
    assert cli.main(["list", "runs"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ["begun.unfinished", "null", "odd", "run", "seven"]
    assert "running" in rows[0]
    assert "can't be read" in rows[2]
    assert rows[3].split()[1:3] == ["finetune", "complete"]
    assert f"accuracy {pt.Report.load(run / 'report.json')['accuracy']}" in rows[3]
    with pytest.raises(SystemExit):
        cli.main(["list", "everything"])
    assert tuple(LISTS) == cli.LISTED, "the command line names them without loading what they list"


def test_what_is_shown_in_a_notebook_is_escaped_and_short(run: Path) -> None:
    task = pt.load_task("digits", None, 60, 0, n_test=40)
    evil = replace(task, name=EVIL[0], notes=(EVIL[1],), skipped=((EVIL[2], EVIL[3]),))
    said = replace(pt.read_run(run).test, split="<b>", columns={"<i>": tuple(map(str, range(40)))})
    row = {"stage": EVIL[0], "epoch": 1, "train_loss": 0.5, "val_accuracy": 0.25, "seconds": 1.5}
    history = History([row], row, {}, "cpu", "fp32", ())
    start = Checkpoint(EVIL[0], EVIL[1], EVIL[2], pt.Preprocessing(8, (0.5,) * 3, (0.5,) * 3), 1, 1)
    for thing in (evil, said, history, start):
        found = Elements(thing._repr_html_())
        assert set(found.tags) <= {"table", "caption", "tr", "th", "td", "p", "br"}, type(thing)
        assert {name for name, _ in found.attributes} == {"class"}
        assert len(repr(thing)) < 1500, f"{type(thing)} is no wall of numbers"
    assert repr(history).splitlines()[-1].split() == [*EVIL[0].split(), "1", "0.500", "0.250", "kept"]
    assert "1.5" not in repr(history), "seconds would differ from run to run"
    assert repr(said).splitlines()[0].split() == ["split", "examples", "classes", "kind", "columns"]
    assert np.array_repr(said.scores)[:20] not in repr(said)


def test_the_answer_is_printed_and_in_a_notebook_put_to_its_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = pt.Answer()
    answer.give("<b> costs $5 or $6")
    assert capsys.readouterr().out == "<b> costs $5 or $6\n"
    shown: list[tuple[dict[str, str], str, bool]] = []
    monkeypatch.setattr("IPython.get_ipython", lambda: object())
    monkeypatch.setattr(
        "IPython.display.display", lambda data, raw, display_id, update: shown.append((data, display_id, update))
    )
    answer = pt.Answer()
    answer.give("<b> costs $5 or $6")
    (before, place, fresh), (after, again, update) = shown
    assert "not yet known" in before["text/plain"]
    assert (place, fresh, update) == (again, False, True)
    assert "&lt;b&gt; costs $5 or $6" in after["text/html"]
    assert "mathjax_ignore" in after["text/html"]


def test_mistakes_are_leafed_through_where_widgets_are_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = make_task()
    y = task.test.targets.numpy()
    wrong = np.arange(len(y)) % 3 == 0
    said = pt.Predictions.of(
        y, np.eye(3)[(y + wrong) % 3] * 4.0, class_names=[*task.class_names], ids=task.test.ids, split="test"
    )
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert plots.browse(task, said) is None
    assert "pip install ipywidgets" in capsys.readouterr().out
    monkeypatch.undo()
    pytest.importorskip("ipywidgets")
    true, taken_for, at_most, count, picture = plots.browse(task, said).children
    assert [name for name, _ in true.options] == ["any class", *task.class_names]
    assert count.value == f"The surest {min(18, wrong.sum())} of {wrong.sum()}"
    assert bytes(picture.value[:4]) == b"\x89PNG"
    true.value = 0
    assert count.value.endswith(f" of {(wrong & (y == 0)).sum()}")
    taken_for.value = 0
    assert count.value == "There are none", "class 0 is not mistaken for itself"
    taken_for.value = -1
    assert count.value.startswith("The surest")
    at_most.value = 0.5
    assert count.value == "There are none", "each of them is surer than that"
    assert not plt.get_fignums()
    with pytest.raises(pt.InputError, match="each image has one class"):
        plots.browse(task, pt.Predictions.of(np.eye(3, dtype=int), np.eye(3)))
    plt.close("all")
