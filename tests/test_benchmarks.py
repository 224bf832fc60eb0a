"""The benchmark command: what it says of numbers, and that it runs where a peer is at hand."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from tests.benchmarks import Line, in_turns
from tests.benchmarks.__main__ import GROUPS, finding, main, rows


def test_times_are_better_above_one_whatever_the_unit() -> None:
    assert Line("g", "w", "o", ours=2.0, theirs=8.0, unit="s").times == 4
    assert Line("g", "w", "o", ours=2.0, theirs=8.0, unit="MB").times == 4
    assert Line("g", "w", "o", ours=2.0, theirs=8.0, unit="images/s").times == 0.25


def test_each_way_begins_a_turn() -> None:
    order: list[str] = []

    def way(name: str) -> int:
        order.append(name)
        return len(order)

    ways = {name: partial(way, name) for name in "abc"}
    assert in_turns(ways, 3) == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}
    assert "".join(order) == "abcbcacab"


def test_a_missed_goal_is_said() -> None:
    lines = [Line("g", "one", "peer", 1, 3, "s", goal=2), Line("g", "two", "peer", 1, 1.5, "s", goal=2)]
    assert [row[-1] for row in rows(lines)] == ["goal", "", "2 met", "2 missed"]
    assert finding(lines).endswith("1 of 2 goals met")


def test_what_is_left_out_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["staged", "texts", "--quick", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert "left out: staged: it needs --images" in said
    assert "left out: texts: it needs --texts" in said
    with pytest.raises(SystemExit):
        main(["speed"])
    assert f"there is no group 'speed'; there are {', '.join(GROUPS)}" in capsys.readouterr().err


@pytest.mark.usefixtures("with_nbval")
def test_it_runs_and_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["boxes", "--quick", "--out", str(tmp_path)])
    said, table = capsys.readouterr().out, pd.read_csv(tmp_path / "table.csv")
    assert len(table) >= 2
    assert all(what in said for what in table["what"])
    assert (table["times"] > 0).all()
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "environment.json").is_file()
