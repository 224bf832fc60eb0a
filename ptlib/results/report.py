"""Report, one of the five nouns: metrics with intervals, and what one must know to believe them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ptlib.files import html_table, text_table, write_whole


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, `low` to `high` at `level`, made by `method`; `reason` says why either is NaN."""

    value: float
    low: float
    high: float
    method: str
    level: float = 0.95
    reason: str | None = None

    def __str__(self) -> str:
        if math.isnan(self.value):
            return f"undefined ({self.reason})"
        if math.isnan(self.low):
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Report(Mapping[str, Estimate]):
    """Metrics with intervals, and what one must know to believe them. `report["accuracy"].low` is a number."""

    metrics: dict[str, Estimate]
    n: int
    split: str
    per_class: dict[str, dict[str, Estimate]]
    confusion: np.ndarray
    class_names: tuple[str, ...]
    selected_on: str = "nothing was selected"
    provenance: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Estimate:
        if name not in self.metrics:
            raise KeyError(f"no metric {name!r}; this report has {', '.join(self.metrics)}")
        return self.metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def table(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("metric", "value", "95 % interval", "method")]
        for name, e in self.metrics.items():
            value = "undefined" if math.isnan(e.value) else f"{e.value:.3f}"
            interval = "none" if math.isnan(e.low) else f"{e.low:.3f} to {e.high:.3f}"
            rows.append((name.replace("_", " "), value, interval, e.reason or e.method))
        return rows

    def __str__(self) -> str:
        head = f"{self.split}: {self.n:,} examples, {len(self.class_names)} classes; selection: {self.selected_on}"
        return "\n".join([head, *text_table(self.table())])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return html_table(self.table(), str(self).splitlines()[0])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; NaN becomes None, its reason stays."""
        plain = asdict(self)
        plain["confusion"] = self.confusion.tolist()
        return _finite(plain)  # type: ignore[no-any-return]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write JSON, whole or not at all."""
        return write_whole(path, json.dumps(self.to_dict(), indent=1, allow_nan=False).encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Report:
        """Read what `save` wrote."""
        plain = json.loads(Path(path).read_bytes())
        plain["metrics"] = {k: _estimate(e) for k, e in plain["metrics"].items()}
        plain["per_class"] = {c: {k: _estimate(e) for k, e in row.items()} for c, row in plain["per_class"].items()}
        plain["confusion"] = np.array(plain["confusion"], dtype=np.int64)
        plain["class_names"] = tuple(plain["class_names"])
        return cls(**plain)


def _estimate(plain: dict[str, Any]) -> Estimate:
    numbers = {k: math.nan if plain[k] is None else plain[k] for k in ("value", "low", "high")}
    return Estimate(**{**plain, **numbers})


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
