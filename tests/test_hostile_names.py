"""Names, parameters and labels by strangers come through exactly, or are refused by name."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text

import ptlib.plots as plots
from ptlib import InputError, Predictions, Report, evaluate, leaderboard
from ptlib.core import Split, Task
from ptlib.decisions import Band, CostCurve
from ptlib.files import html_table, text_table
from ptlib.results import Boxes, Estimate, Masks
from ptlib.sheets import LIVE, csv_of
from ptlib.stages import History
from tests.conftest import make_task
from tests.hostile import limited
from tests.test_hostile_data import NAMES

C = len(NAMES)
RNG = np.random.default_rng(0)
SAID = Predictions(tuple(f"{name}/{i}" for i in range(4) for name in NAMES), np.arange(4 * C) % C,
                   RNG.normal(size=(4 * C, C)), "test", NAMES)  # fmt: skip
SHOWN = tuple(name for name in NAMES if name.strip())


@pytest.fixture(scope="module")
def report() -> Report:
    return evaluate(SAID, resamples=100)


def named_task() -> Task:
    task = make_task(3 * C, 3, 8)
    parts: Any = {s.name: Split(s.name, s.inputs, torch.arange(len(s)) % C, [f"{s.name}/{i}" for i in range(len(s))])
             for s in task.splits}  # fmt: skip
    return Task("named", "image_classification", NAMES, **parts)


def test_names_come_back_exactly(tmp_path: Path, report: Report) -> None:
    again = Predictions.load(SAID.save(tmp_path / "p.safetensors"))
    assert (again.class_names, again.ids) == (NAMES, SAID.ids)
    back = Report.load(report.save(tmp_path / "r.json"))
    assert (back.class_names, tuple(back.per_class)) == (NAMES, NAMES)
    task = named_task()
    assert task.class_names == NAMES
    assert len({replace(task, class_names=(*NAMES[:k], "other", *NAMES[k + 1 :])).fingerprint for k in range(C)}) == C
    by_name = Predictions.of([NAMES[y] for y in SAID.targets], SAID.scores, class_names=NAMES)
    assert by_name.targets.tolist() == SAID.targets.tolist()
    assert [SAID.one_vs_rest(name).class_names[1] for name in NAMES] == list(NAMES)


class Tags(HTMLParser):
    """What a browser would make of a text: its elements, and what it shows."""

    def __init__(self, page: str):
        super().__init__()
        self.found, self.cells = set[str](), list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(name for name, _ in attrs)}
        self.cells += [""] if tag in ("td", "th") else []

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


def test_no_name_is_an_element_of_a_page(report: Report) -> None:
    board = leaderboard(FEW, resamples=100)
    frame: Any = pd.DataFrame({name: [name] for name in NAMES}, index=pd.Index(["<b>"], name="<i>"))
    pages = [report._repr_html_(), board._repr_html_(), frame._repr_html_(), frame.to_html(),
             html_table([NAMES, NAMES], NAMES[1])]  # fmt: skip
    for page in pages:
        plain = {"table", "caption", "tr", "th", "td", "thead", "tbody", "div", "style", "p"}
        plain |= {"scoped", "border", "class"}  # attributes
        assert Tags(page).found <= plain, page
    assert Tags(pages[-1]).cells == [*NAMES, *NAMES]
    assert all(any(name in line for line in text_table([NAMES])) for name in NAMES if "\n" not in name)


def test_no_name_is_a_formula_of_a_spreadsheet() -> None:
    frame = pd.DataFrame({name: [*NAMES] for name in NAMES}, index=pd.Index(NAMES, name="=1+1"))
    rows = list(csv.reader(io.StringIO(csv_of(frame).decode(), newline="")))
    for row in rows:
        for cell in row:
            assert not cell.startswith(LIVE) or cell.lstrip("+-").isdigit(), cell
    plain = [[cell.removeprefix("'") for cell in row] for row in rows]
    assert plain == [["=1+1", *NAMES], *([name] * (C + 1) for name in NAMES)]
    numbers = pd.DataFrame({"x": [-1.5, 2e-9, np.nan], "y": ["-1", "+2", "-0.3 [-0.4, -0.2]"]})
    assert csv_of(numbers, index=False).decode().split() == numbers.to_csv(index=False).replace("-0.3", "'-0.3").split()


E = Estimate(0.5, 0.4, 0.6, "none")
FRAME = pd.DataFrame({"accuracy": 0.5, "low": 0.4, "high": 0.6, "p": 0.01, "n": 9, "points": 1.0,
                      "cost": np.arange(1, C + 1)}, index=list(NAMES))  # fmt: skip
LINE = pd.DataFrame({"inside": 0.6, "outside": 0.5, "effective": 0.0, "low": -0.1, "high": 0.1,
                     "reference": np.arange(C) < 0}, index=list(NAMES))  # fmt: skip
LINE.attrs["line"] = 1.0, 0.0
FEW = dict.fromkeys(SHOWN[:8], SAID)
PATH = {"point": [0, 1], "loss": [1, 2]}
BAND = Band(np.array([0, 1]), np.array([0, 1]), np.zeros(2), np.ones(2), "x", "y")
PIXELS = torch.zeros(C, 8, 8, 3, dtype=torch.uint8)
MAPS = Split("val", PIXELS[:2], torch.arange(128, dtype=torch.uint8).view(2, 8, 8) % C, ["a", "b"])
ROWS = torch.zeros(1, C, 7)
ROWS[0, :, 0], ROWS[0, :, 3:5], ROWS[0, :, 6] = torch.arange(C), 5, 25
FOUND = Boxes(("a",), ROWS.numpy(), np.concatenate([ROWS[..., :5], np.ones((1, C, 1))], axis=2), "val", NAMES)
HISTORY = [{"stage": "$\\frac", "val_accuracy": 0.5}, {"stage": "_$x$", "val_accuracy": 0.6}]
EACH = dict.fromkeys(NAMES, E)
FIGURES: dict[str, Callable[[Report], Any]] = {
    "images": lambda r: plots.images(PIXELS, NAMES), "class_counts": lambda r: plots.class_counts(named_task()),
    "intervals": lambda r: plots.intervals(dict.fromkeys(NAMES, r)), "confusion": lambda r: plots.confusion(r),
    "reliability_curves": lambda r: plots.reliability_curves(dict.fromkeys(NAMES, SAID)),
    "bands": lambda r: plots.bands(dict.fromkeys(NAMES, BAND)), "slices": lambda r: plots.slices(FRAME, 0.5),
    "cost_curves": lambda r: plots.cost_curves({n: CostCurve(np.ones(2), np.ones(2)) for n in NAMES}, 0.5),
    "leaders": lambda r: plots.leaders(leaderboard(FEW, resamples=100)),
    "differences": lambda r: plots.differences(leaderboard(FEW, resamples=100)),
    "pareto": lambda r: plots.pareto(FRAME, "cost", "accuracy"),
    "profiles": lambda r: plots.profiles({name: np.ones((2, 2)) for name in NAMES}, np.array([0.1, 0.9])),
    "estimates": lambda r: plots.estimates(dict.fromkeys(NAMES, EACH), "x"),
    "on_the_line": lambda r: plots.on_the_line(LINE), "costs": lambda r: plots.costs(FRAME),
    "risk_curves": lambda r: plots.risk_curves(dict.fromkeys(NAMES, SAID)),
    "accuracy_estimates": lambda r: plots.accuracy_estimates(pd.DataFrame(0.5, [0], ["accuracy", *NAMES])),
    "picture_rows": lambda r: plots.picture_rows(dict.fromkeys(NAMES, PIXELS[:C]), NAMES),
    "looks": lambda r: plots.looks(PIXELS, {name: np.ones((C, 8, 8)) for name in NAMES}, NAMES),
    "lines": lambda r: plots.lines({name: dict.fromkeys(NAMES, 1.0) for name in NAMES}, "x", "y"),
    "paths": lambda r: plots.paths(dict.fromkeys(NAMES, PATH)),
    "seconds": lambda r: plots.seconds(dict.fromkeys(NAMES, 1.0)),
    "class_bars": lambda r: plots.class_bars({n: {k: {"ap": E} for k in NAMES} for n in NAMES}, "ap"),
    "error_gains": lambda r: plots.error_gains({name: {"missed": {"gain": 0.1}} for name in NAMES}),
    "overlays": lambda r: plots.overlays(MAPS, NAMES, {name: MAPS.targets.numpy() for name in NAMES}),
    "boxes": lambda r: plots.boxes(Split("val", PIXELS[:1], ROWS, ["a"]), NAMES, FOUND),
    "box_curves": lambda r: plots.box_curves(dict.fromkeys(FEW, FOUND), NAMES[3]),
    "learning_curves": lambda r: plots.learning_curves(
        {name: History(HISTORY, HISTORY[1], {}, "cpu", "fp32", ()) for name in NAMES}),
    "mistakes": lambda r: plots.mistakes(
        named_task(), replace(SAID.take(slice(0, 9)), ids=tuple(f"test/{i}" for i in range(9)))),
}  # fmt: skip
SOME = {"boxes": SHOWN[:20], "leaders": SHOWN[:8], "differences": SHOWN[:8], "box_curves": SHOWN[:8], "mistakes": (),
        "costs": SHOWN[1:], "slices": ()}  # fmt: skip


@pytest.mark.usefixtures("with_nbval")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FIGURES)
def test_figures_show_every_name_as_it_is(name: str, report: Report) -> None:
    ax = FIGURES[name](report)
    ax.figure.set_layout_engine("none")
    ax.figure.canvas.draw()
    texts = [text for text in ax.figure.findobj(Text) if text.get_text()]
    shown = [text._preprocess_math(text.get_text()) for text in texts]
    plt.close(ax.figure)
    assert not any(mathematics and "mathdefault" not in text for text, mathematics in shown)  # ticks have their own
    whole = {text.removeprefix("\u200b") for text, _ in shown} | {text for text, _ in shown}
    lost = [n for n in SOME.get(name, SHOWN) if n not in whole and n.replace("_", " ") not in whole]
    assert lost == []


YAML: dict[str, tuple[str, str, Any]] = {  # what a file of parameters says of one, and the value or error
    "tag": ("seed", "!!python/object/apply:os.system ['touch {canary}']", "ConstructorError"),
    "name": ("seed", "!!python/name:os.system", "ConstructorError"), "own": ("seed", "!evil 1", "ConstructorError"),
    "module": ("seed", "!!python/object/new:os.system ['touch {canary}']", "ConstructorError"),
    "open": ("seed", "!!python/object/apply:builtins.open ['{canary}', 'w']", "ConstructorError"),
    "binary": ("dataset", "!!binary aGk=", "hi"), "set": ("seed", "!!set {1, 2}", "InputError"),
    "power": ("lr", "1e-3", 1e-3), "point": ("lr", "1.0e-3", 1e-3), "sign": ("lr", "-1e-3", "InputError"),
    "nan": ("lr", ".nan", "InputError"), "inf": ("lr", ".inf", "InputError"), "whole": ("epochs", "1e1", "InputError"),
    "no": ("dataset", "no", "InputError"), "yes": ("seed", "yes", "InputError"),
    "date": ("dataset", "2024-01-01", "2024-01-01"),
    "null": ("lr", "~", None), "quoted": ("dataset", "'no'", "no"), "map": ("dataset", "{a: 1}", "InputError"),
    "alias": ("labels", "&a [1, *a]", "InputError"), "merge": ("seed", "{<<: {seed: 1}}", "InputError"),
    "bomb": ("labels", "[&a [1, 2], &b [*a, *a, *a, *a], &c [*b, *b, *b, *b], [*c, *c, *c, *c]]", "InputError"),
}  # fmt: skip


def test_parameters_of_a_file_run_nothing_and_have_their_type(tmp_path: Path) -> None:
    call = ("__import__('ptlib.params').params.coerce(given[0], __import__('yaml').load(given[1], "
            "__import__('papermill.iorw').iorw.NoDatesSafeLoader))")  # fmt: skip
    canary = tmp_path / "canary"
    inputs = {name: [field, said.replace("{canary}", str(canary))] for name, (field, said, _) in YAML.items()}
    for name, found in limited(call, inputs).items():
        assert (found.error or found.said) == YAML[name][2], (name, found)
        assert (found.error is None) == (YAML[name][2] not in ("InputError", "ConstructorError")), (name, found)
    assert not canary.exists()


P3, MASK = np.full((3, 3), 1 / 3), np.zeros((1, 2, 2), np.uint8)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Predictions.of([0, 1, 3], P3), "the target of example '2' is 3; targets lie in 0..2"),
        (lambda: Predictions.of([0, -100, 1], P3), "the target of example '1' is -100"),
        (lambda: Predictions.of([0, -1, 1], P3), "is -1"), (lambda: Predictions.of([0, 2**62, 1], P3), f"is {2**62}"),
        (lambda: Predictions.of([0.0, 1.5, 2.0], P3), "whole numbers, got for example 1.5"),
        (lambda: Predictions.of([0.0, np.nan, 2.0], P3), "whole numbers, got for example nan"),
        (lambda: Predictions.of([0.0, np.inf, 2.0], P3), "targets must be integers, got float64"),
        (lambda: Predictions.of([0.0, 1e300, 2.0], P3), r"whole numbers, got for example 1e\+300"),
        (lambda: Predictions.of([None, 0, 1], P3), "target 'None' is no class"),
        (lambda: Predictions.of(["0", "a", "1"], P3, class_names="012"), "target 'a' is no class"),
        (lambda: Predictions.of([0, 1, 2], P3, ids="aab"), "example 'a' is there twice"),
        (lambda: Predictions.of([0, 1, 2], P3, class_names="aab"), "a class is named twice"),
        (lambda: Predictions.of([0, 1, 2], P3 * np.nan), "hold NaN or infinity"),
        (lambda: Predictions.of([], P3[:0]), "no examples"), (lambda: Predictions.of([0, 1], P3), "ask for scores"),
        (lambda: Predictions.of([0, 1, 2], P3, ids="ab"), "ask for scores"),
        (lambda: Masks(("a",), MASK + np.uint8(3), MASK, "val", ("x", "y")), "the map of 'a' holds class 3"),
        (lambda: Masks(("a",), MASK, MASK + np.uint8(255), "val", ("x", "y")), "the map of 'a' holds class 255"),
        (lambda: replace(FOUND, class_names=NAMES[:-1]), "it must hold a class in"),
        (lambda: replace(FOUND, targets=FOUND.targets * np.nan), "all finite"),
    ],
)  # fmt: skip
def test_labels_that_are_none_are_refused_by_name(make: Callable[[], Any], says: str) -> None:
    with np.errstate(all="ignore"), pytest.raises(InputError, match=says):
        make()


def test_tasks_refuse_labels_that_are_none_and_names_that_are_twice(task: Task) -> None:
    val, n = task.val, len(task.val)
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"targets": torch.full((n,), -100)}, "targets run from -100 to -100, but there are 3 classes"),
        ({"targets": torch.full((n,), 3)}, "targets run from 3 to 3"), ({"ids": ["x"] * n}, "'x' is twice in 'val'"),
        ({"ids": ["\udce9", *val.ids[1:]]}, r"the name of example '\\udce9' is not UTF-8; rename it"),
    )  # fmt: skip
    for change, says in changes:
        with pytest.raises(ValueError, match=says):
            replace(task, val=replace(val, **change))
    odd: tuple[dict[str, Any], ...] = (
        {"targets": val.targets.double()},
        {"targets": val.targets * torch.nan},
        {"ids": []},
    )
    for change in odd:
        with pytest.raises(ValueError, match="split 'val'"):
            replace(val, **change)
    with pytest.raises(InputError, match=r"the name of class 'caf\\udce9' is not UTF-8; rename it"):
        replace(task, class_names=("a", "b", "caf\udce9"))
    assert replace(task, skipped=(("caf\udce9.jpg", "x\ud800"),)).skipped == (("caf\\udce9.jpg", "x\\ud800"),)
