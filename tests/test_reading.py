"""Predictions from files and from models of other frameworks; hostile and broken files."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ptlib.core import Task
from ptlib.errors import InputError
from ptlib.prediction import cost, predict
from ptlib.reading import read_predictions
from ptlib.report import evaluate
from ptlib.results import Predictions
from tests.conftest import make_task

NAMES = ("NA", "no", "01", "=cmd()", "<b>", "שלום", "a,b", 'say "x"', "e\u0301", "é")
RNG = np.random.default_rng(0)
TARGETS = RNG.integers(0, len(NAMES), 40)
LOGITS = RNG.normal(size=(40, len(NAMES)))
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
IDS = [f"image {i}.jpg" for i in range(40)]


def table(kind: str = "logit", values: np.ndarray = LOGITS, targets: Any = None) -> pd.DataFrame:
    scores = {f"{kind}_{name}": values[:, k] for k, name in enumerate(NAMES)}
    names = [NAMES[y] for y in TARGETS] if targets is None else targets
    return pd.DataFrame({"id": IDS, "target": names, **scores, "camera": ["01", "NA"] * 20})


def write(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)
    return path


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize("targets", ["names", "numbers"])
def test_tables_come_back_with_every_name(tmp_path: Path, ending: str, targets: str) -> None:
    frame = table(targets=TARGETS if targets == "numbers" else None)
    p = read_predictions(write(frame, tmp_path / f"p{ending}"), split="val")
    assert p.class_names == NAMES
    assert p.ids == tuple(IDS)
    assert p.split == "val"
    np.testing.assert_array_equal(p.targets, TARGETS)
    np.testing.assert_allclose(p.scores, LOGITS, rtol=1e-15)
    assert p.columns == {"camera": ("01", "NA") * 20}
    q = read_predictions(write(table("prob", PROBABILITIES), tmp_path / f"q{ending}"))
    np.testing.assert_allclose(q.probabilities, PROBABILITIES, rtol=1e-12)
    assert evaluate(q)["accuracy"] == evaluate(p)["accuracy"]
    again = Predictions.load(p.save(tmp_path / "again.safetensors"))
    assert (again.columns, again.class_names) == (p.columns, NAMES)
    np.testing.assert_array_equal(read_predictions(tmp_path / "again.safetensors").scores, p.scores)


def test_arrays_come_back(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", targets=TARGETS, logits=LOGITS, class_names=NAMES, ids=IDS, year=TARGETS + 2000)
    p = read_predictions(tmp_path / "p.npz")
    assert (p.class_names, p.ids) == (NAMES, tuple(IDS))
    assert p.columns["year"][0] == str(2000 + TARGETS[0])
    np.savez(tmp_path / "q.npz", targets=(PROBABILITIES > 0.2).astype(int), probabilities=PROBABILITIES)
    several = read_predictions(tmp_path / "q.npz")
    assert several.multilabel
    np.testing.assert_allclose(several.probabilities, PROBABILITIES, rtol=1e-12)
    np.savez(tmp_path / "r.npz", targets=TARGETS % 2, probabilities=PROBABILITIES[:, 0])
    np.testing.assert_allclose(
        read_predictions(tmp_path / "r.npz").probabilities[:, 1], PROBABILITIES[:, 0], rtol=1e-12
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda t: t.drop(columns="target"), "it needs a column target"),
        (lambda t: t[["id", "target"]], "logit_<class>"),
        (lambda t: t.assign(prob_x=0.1), "mixes logits and probabilities"),
        (lambda t: t.assign(target="cat"), "target 'cat' is none of the classes NA, no, 01"),
        (lambda t: t.assign(target=99), "the target of example 'image 0.jpg' is 99; targets lie in 0..9"),
        (lambda t: t.assign(target="-100"), "target '-100' is none of"),
        (lambda t: t.assign(id="same"), "example 'same' is there twice"),
        (lambda t: t.assign(logit_no=["x"] + ["0"] * 39), "a score is no number"),
        (lambda t: t.assign(logit_no=[np.nan] + [0.0] * 39), "a score is no number|first for example 'image 0.jpg'"),
        (lambda t: t.assign(logit_no=np.inf), "40 of 40 rows hold NaN or infinity"),
        (lambda t: t.rename(columns=lambda c: str(c).replace("logit", "prob")), "probabilities must lie in 0..1"),
        (lambda t: t.assign(target=["no", "dgo"] * 20), "target 'dgo' is none of the classes"),
        (lambda t: t.rename(columns={"logit_no": "logit_NA"}), "two columns 'logit_NA'"),
        (lambda t: t.head(0), "there are no examples"),
    ],
)
def test_a_table_that_lacks_something_says_what(tmp_path: Path, make: Callable[[Any], Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_predictions(write(make(table()), tmp_path / "p.csv"))


def test_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content, says in (
        ("a.txt", b"", "are read from .csv, .parquet, .npz or .safetensors"),
        ("a.npz", b"no zip", "can't be read"),
        ("b.npz", None, "needs targets, and either logits or probabilities"),
        ("c.npz", None, "can't be read: Object arrays"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        elif name == "b.npz":
            np.savez(path, targets=TARGETS)
        else:  # an array of objects is a pickle: it is not opened
            np.savez(path, targets=np.array([{"x": 1}], dtype=object), logits=LOGITS)
        with pytest.raises(InputError, match=says):
            read_predictions(path)
    np.savez(tmp_path / "whole.npz", targets=TARGETS, logits=LOGITS)
    whole = (tmp_path / "whole.npz").read_bytes()
    for k in (1, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.npz").write_bytes(whole[:k])
        with pytest.raises(InputError, match="can't be read"):
            read_predictions(tmp_path / "cut.npz")
    for name, content in (("e.csv", b""), ("l.csv", "target,logit_é\n0,1\n".encode("latin-1")), ("p.parquet", b"PAR1"),
                          ("s.safetensors", b"\x00" * 20)):  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="can't be read"):
            read_predictions(tmp_path / name)
    with pytest.raises(InputError, match="there is no file"):
        read_predictions(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"targets": [0, 1], "logits": [[0, 1], [1, 0]], "probabilities": [[0, 1], [1, 0]]}, "one of the two"),
        ({"targets": [0, 1]}, "one of the two"),
        ({"targets": [0.5, 1], "logits": [[0, 1], [1, 0]]}, "whole numbers, got for example 0.5"),
        ({"targets": [np.nan, 1], "logits": [[0, 1], [1, 0]]}, "whole numbers, got for example nan"),
        ({"targets": ["a", "c"], "logits": [[0, 1], [1, 0]], "class_names": "ab"}, "target 'c' is no class"),
        ({"targets": [0, -1], "logits": [[0, 1], [1, 0]]}, "the target of example '1' is -1"),
        ({"targets": [0, 1], "probabilities": [[0.5, 0.5], [0.9, 0.5]]}, "of row 1 sum to 1.4, not 1"),
        ({"targets": [0, 1], "logits": [[0, 1]]}, "ask for scores"),
        (
            {"targets": [1, 2], "logits": np.eye(3)[:2], "class_names": [1, 2, 3]},
            "names or places of the classes 1, 2, 3",
        ),
        ({"targets": [1, 2], "logits": np.eye(3)[:2], "class_names": ["01", "02", "03"]}, "names or places"),
        ({"targets": [0, 1], "logits": np.eye(2), "class_names": "aa"}, "a class is named twice"),
        ({"targets": [], "logits": np.zeros((0, 2))}, "there are no examples"),
        ({"targets": [0, 1], "logits": [[0, 1], [1, 0]], "columns": {"a": [1]}}, "column 'a' has 1 values"),
    ],
)
def test_arrays_that_make_no_sense_are_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Predictions.of(**arguments)


def test_certain_probabilities_stay_so() -> None:
    p = Predictions.of([0, 1], probabilities=[[1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(p.probabilities, [[1, 0], [1, 0]], atol=1e-299)
    assert evaluate(p, metrics=["log_loss"], resamples=100)["log_loss"].value == pytest.approx(345.4, abs=0.1)
    assert Predictions.of([0, 1], [-1.0, 2.0]).predicted.tolist() == [0, 1]
    assert Predictions.of(torch.tensor([0, 1]), torch.tensor([[0.1], [0.2]])).scores.shape == (2, 2)


def test_numbers_no_float_holds_stay_apart() -> None:
    """Logits so large that probabilities are 1 still rank, and a confident mistake costs its logit."""
    p = Predictions.of([0, 1], [40.0, 50.0])
    assert evaluate(p, metrics=["auroc:1", "auroc:0"], resamples=100)["auroc:1"].value == 1
    sure = Predictions.of([1, 0], [[45.0, 0.0, 1.0], [3.0, 1.0, 0.0]]).one_vs_rest("0")
    loss = evaluate(sure, metrics=["log_loss"], resamples=100)["log_loss"].value
    assert loss == pytest.approx((45 - np.log(1 + math.e) + np.log1p((1 + math.e) / math.e**3)) / 2, abs=1e-9)
    assert Predictions.of([1], [[16777216, 16777217]]).predicted[0] == 1
    names = tuple(map(str, range(300)))
    few = Predictions(("a",), np.array([1], dtype=np.uint8), np.zeros((1, 300), np.float32), "t", names)
    assert few.targets.dtype == np.int64
    half = Predictions.of(torch.tensor([0]), torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16, requires_grad=True))
    assert half.scores.tolist() == [[1, 2]]


def mean_colour(images: np.ndarray) -> np.ndarray:
    return np.asarray(images.mean((1, 2)) / 255)


def test_any_function_of_a_batch_is_a_model(task: Task) -> None:
    sizes = []

    def model(images: np.ndarray) -> torch.Tensor:
        assert images.dtype == np.uint8
        sizes.append(len(images))
        return torch.from_numpy(mean_colour(images)).requires_grad_()

    p = predict(model, task.test, task, batch_size=7)
    assert sizes == [7] * 4 + [2]  # the last batch too
    np.testing.assert_allclose(p.scores, mean_colour(task.test.inputs.numpy()))
    assert (p.ids, p.split, p.class_names) == (tuple(task.test.ids), "test", task.class_names)
    with pytest.raises(InputError, match=r"shape \(7, 2\) for 7 images; \(7, 3\) are needed"):
        predict(lambda x: mean_colour(x)[:, :2], task.test, task, batch_size=7)
    with pytest.raises(InputError, match="outputs is 'scores'"):
        predict(model, task.test, task, outputs="scores")  # type: ignore[arg-type]


def test_a_model_of_onnx_is_measured(task: Task, tmp_path: Path) -> None:
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    h, numpy_helper = onnx.helper, onnx.numpy_helper
    weight = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    nodes = [h.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=0), h.make_node("MatMul", ["m", "w"], ["y"])]
    graph = h.make_graph(
        nodes, "g", [h.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 16, 16, 3])],
        [h.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([1, 2]), "axes")],
    )  # fmt: skip
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    session = ort.InferenceSession(tmp_path / "m.onnx")
    p = predict(lambda x: session.run(None, {"x": x.astype("float32") / 255})[0], task.test, task)
    np.testing.assert_allclose(p.scores, mean_colour(task.test.inputs.numpy()) @ weight, rtol=1e-4)
    assert 0 <= evaluate(p)["accuracy"].value <= 1


KERAS = """
import keras, numpy as np
from ptlib import evaluate, predict
from tests.conftest import make_task

task = make_task()
keras.utils.set_random_seed(0)
layers = [keras.Input((16, 16, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, activation="softmax")]
model = keras.Sequential(layers)
said = predict(lambda x: model.predict(x / 255, verbose=0), task.test, task, outputs="probabilities")
theirs = model.predict(task.test.inputs.numpy() / 255, verbose=0)
np.testing.assert_allclose(said.probabilities, theirs, rtol=1e-4)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
accuracy = model.evaluate(task.test.inputs.numpy() / 255, task.test.targets.numpy(), verbose=0, return_dict=True)
assert abs(evaluate(said)["accuracy"].value - accuracy["accuracy"]) < 1e-6
print("measured")
"""


@pytest.mark.usefixtures("with_nbval")
def test_a_model_of_keras_is_measured(tmp_path: Path) -> None:
    if importlib.util.find_spec("keras") is None:  # importing it here would ask for its default backend
        pytest.skip("Keras is not installed")
    environment = {**os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path)}
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", KERAS], cwd=root, env=environment, capture_output=True, text=True)
    assert "measured" in done.stdout, done.stderr[-2000:]


def test_what_a_prediction_costs_is_counted(tiny: Any, task: Task) -> None:
    from ptlib.models import build_model

    model = build_model(tiny, make_task())
    found = cost(model, task.test)
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    stem, first, second = 8 * 8 * 8 * 3 * 9, 8 * 8 * 12 * 8 * 9, 8 * 8 * 16 * 12 * 9
    assert found["flops"] == 2 * (stem + first + second + 16 * 3)
    assert found["examples_per_s"] > 0
