"""Tables as CSV in which no text of a stranger's, such as the name of a class, is a spreadsheet's formula."""

from __future__ import annotations

from typing import Any

LIVE = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # what may begin one (OWASP, CSV injection)


def csv_of(frame: Any, index: bool = True) -> bytes:
    """A pandas DataFrame as CSV in UTF-8, for `write_whole`.

    Text that would begin a formula, or begins with an apostrophe, has one more apostrophe before it: whoever takes
    one off what begins with one has every name as it was. Numbers, and text that is one, stay as they are.
    """
    from pandas.api.types import is_numeric_dtype

    names = [*(frame.index.names if index else ()), *frame.columns]
    flat = frame.reset_index(names=[f"index {i}" for i in range(frame.index.nlevels)]) if index else frame.copy()
    flat = flat.apply(lambda column: column if is_numeric_dtype(column) else column.map(_text))
    flat.columns = ["" if name is None else _text(str(name)) for name in names]
    written: str = flat.to_csv(index=False, lineterminator="\r\n")  # so that either is quoted inside a name
    return written.encode()


def _text(value: Any) -> Any:
    if not isinstance(value, str) or not value.startswith((*LIVE, "'")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
