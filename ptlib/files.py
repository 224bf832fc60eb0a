"""Files written whole or not at all, and tables for terminals and notebooks."""

from __future__ import annotations

import hashlib
import html
import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

NO_MATHS = "class='tex2jax_ignore mathjax_ignore'"  # of an HTML element in which a dollar is a dollar


def write_whole(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write `content` so that a reader, or a crash, sees the old file or the new one and never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:80]}.{uuid.uuid4().hex}.tmp")  # threads and containers share process ids
    try:
        with open(temporary, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def ordered(packed: bytes) -> bytes:
    """A safetensors file with its header sorted by name; the library leaves the order of metadata to chance."""
    end = 8 + int.from_bytes(packed[:8], "little")
    header = json.dumps(json.loads(packed[8:end]), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + packed[end:]


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def text_table(rows: Sequence[Sequence[str]], header: bool = True) -> list[str]:
    """Rows of strings as aligned lines, a rule below the first if it is a header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "  ".join("-" * w for w in widths), *lines[1:]] if header else lines


def html_table(rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """Rows of strings as an HTML table, every cell escaped and no dollar mathematics; the first row is the header."""
    head = "".join(f"<th>{html.escape(c)}</th>" for c in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows[1:])
    return f"<table {NO_MATHS}><caption>{html.escape(caption)}</caption><tr>{head}</tr>{body}</table>"
