"""An executed notebook as one HTML file without code, which needs no network and runs nothing."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any
from xml.etree.ElementTree import tostring

from ptlib.errors import InputError
from ptlib.files import html_table

MATHS = frozenset({"display", "xmlns", "mathvariant", "stretchy", "fence", "form", "separator", "minsize", "maxsize",
                   "linethickness", "columnalign", "rowspacing", "columnspacing", "lspace", "rspace", "accent",
                   "movablelimits", "displaystyle", "width", "height", "depth"})  # fmt: skip
# Nothing may be loaded or run, whatever a notebook of a stranger brings along; its own figures are shown.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
TAGS = frozenset({"b", "br", "caption", "code", "div", "em", "i", "p", "pre", "small", "span", "strong", "sub", "sup",
                  "table", "tbody", "td", "tfoot", "th", "thead", "tr"})  # fmt: skip
STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #1d1d1f; max-width: 56rem; margin: 2rem auto; padding: 0 1rem }
h1 { line-height: 1.2 } h2 { margin-top: 2.5rem } a { color: #0b57a4 } nav { font-size: 0.9rem } img { max-width: 100% }
pre { font-size: 0.82rem; line-height: 1.4; overflow-x: auto; white-space: pre-wrap; color: #444 }
table { border-collapse: collapse; font-size: 0.85rem; margin: 1rem 0; display: block; overflow-x: auto }
td, th { padding: 0.25rem 0.7rem; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top }
caption { text-align: left; color: #555 } math[display=block] { margin: 1rem 0 }
.answer { border-left: 4px solid #0b57a4; padding: 0.1rem 1rem; background: #f2f6fa }
.facts { color: #444; font-size: 0.9rem; border-top: 1px solid #ccc; margin-top: 3rem }
@media print { nav { display: none } h2, img, table { break-inside: avoid } }
"""


def page(notebook: Mapping[str, Any], facts: Iterable[Sequence[str]], verify: str) -> str:
    """HTML of an executed notebook (as JSON has it): its text, mathematics, figures and tables, and what made them.

    `facts` are rows of two strings, `verify` is the command that checks them. Mathematics becomes MathML, figures stay
    in the file. What HTML the notebook holds is cut down to tables and plain text, and no script runs.
    """
    try:
        sections = [part for cell in notebook["cells"] for part in _cell(cell)]
    except (KeyError, TypeError, AttributeError) as e:
        raise InputError(f"the notebook can't be read ({type(e).__name__}: {e})") from None
    body = "\n".join(sections)
    title = next(iter(re.findall(r"<h1[^>]*>(.*?)</h1>", body, re.S)), "Report")
    headings = re.findall(r'<h2 id="([^"]*)">(.*?)</h2>', body, re.S)
    contents = " · ".join(f'<a href="#{anchor}">{text}</a>' for anchor, text in headings)
    body = body.replace("</h1>", f"</h1>\n<nav>{contents}</nav>", 1)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{re.sub("<[^>]*>", "", title)}</title>
<style>{STYLE}</style>
</head>
<body>
{body}
<section class="facts">
<h2 id="what-made-this">What made this</h2>
{html_table([("what", "value"), *facts])}
<p>To be checked by <code>{html.escape(verify)}</code></p>
</section>
</body>
</html>
"""


def _cell(cell: Mapping[str, Any]) -> Iterable[str]:
    if cell["cell_type"] == "markdown":
        yield markdown("".join(cell["source"]))
    elif cell["cell_type"] == "code":
        for kind, run in groupby(cell["outputs"], lambda output: output["output_type"]):
            if kind == "stream":  # what came line by line is one text
                yield f"<pre>{html.escape(_without_ansi(''.join(''.join(output['text']) for output in run)))}</pre>"
            else:
                yield from (part for output in run for part in _output(output))


def _output(output: Mapping[str, Any]) -> Iterable[str]:
    if output["output_type"] == "error":
        yield f"<pre>{html.escape(output['ename'])}: {html.escape(output['evalue'])}</pre>"
    elif not any(kind.startswith("application/vnd.jupyter.widget") for kind in output["data"]):
        yield _shown({kind: "".join(data) for kind, data in output["data"].items() if isinstance(data, str | list)})


def _shown(data: Mapping[str, str]) -> str:
    """The richest form that is safe: a figure, a table, plain text."""
    if "image/png" in data:
        try:
            pixels = base64.b64encode(base64.b64decode(data["image/png"])).decode()
        except ValueError:
            return "<p>(a figure that can't be read)</p>"
        return f'<p><img src="data:image/png;base64,{pixels}" alt="figure"></p>'
    text = data.get("text/plain", "")
    if "text/html" not in data:
        return f"<pre>{html.escape(text)}</pre>"
    shown = _clean(data["text/html"])
    return f'<div class="answer">{shown}</div>' if text.startswith("Answer: ") else shown


def _clean(untrusted: str) -> str:
    """HTML without anything but tables and marked text, and no attributes but the span of a cell."""
    import bleach

    without = re.sub(r"<(style|script)\b.*?</\1\s*>", "", untrusted, flags=re.S | re.I)
    return str(bleach.clean(without, TAGS, {"td": ["colspan", "rowspan"], "th": ["colspan", "rowspan"]}, strip=True))


def markdown(source: str) -> str:
    """Markdown as HTML: mathematics as MathML, HTML in it as the text it is, headings with anchors."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def block_math(self, body: str) -> str:
            return _mathml(body, "block")

        def inline_math(self, body: str) -> str:
            return _mathml(body, "inline")

        def latex_environment(self, name: str, body: str) -> str:
            return _mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")

        def block_code(self, code: str, info: str | None = None) -> str:
            return f"<pre><code>{html.escape(code)}</code></pre>\n"

        def image(self, text: str, url: str, title: str | None = None) -> str:
            return html.escape(text)  # it lies elsewhere

        def heading(self, text: str, level: int, **attrs: Any) -> str:
            anchor = re.sub(r"\W+", "-", re.sub("<[^>]*>", "", text).lower()).strip("-")
            return f'<h{level} id="{anchor}">{text}</h{level}>\n'

    return str(MarkdownWithMath(renderer=Renderer(escape=True, allow_harmful_protocols=False)).render(source))


def _mathml(latex: str, display: str) -> str:
    """LaTeX as MathML; what can't be converted as it stands. Text in it stays text, and attributes are known ones."""
    from latex2mathml.converter import convert_to_element

    try:
        tree = convert_to_element(latex.strip(), display=display)
    except Exception:  # of many kinds, some of them plain
        return f"<code>{html.escape(latex.strip())}</code>"
    for part in tree.iter():
        part.text, part.tail = (html.unescape(text) if text else text for text in (part.text, part.tail))
        kept = {name: html.unescape(value) for name, value in part.attrib.items() if name in MATHS}
        part.attrib.clear()
        part.attrib.update(kept)
    return tostring(tree, encoding="unicode")


def _without_ansi(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
