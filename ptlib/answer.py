"""A notebook's answer, which stands at its top and is computed at its end."""

from __future__ import annotations

import html
import uuid

from ptlib.files import NO_MATHS


class Answer:
    """A place for the answer: shown where it is made, filled in by `give`, and printed there too.

    In a notebook that stopped half way it says that there is no answer yet.
    """

    def __init__(self) -> None:
        self._place = f"answer-{uuid.uuid4().hex}"
        self._show("not yet known; the last cell gives it.", update=False)

    def give(self, sentence: str) -> None:
        """Put the answer to the top, and print it."""
        self._show(sentence, update=True)
        print(sentence)

    def _show(self, text: str, update: bool) -> None:
        from IPython import display, get_ipython

        if get_ipython() is None:  # a script's output is one stream
            return
        shown = {
            "text/html": f"<p {NO_MATHS}><strong>Answer:</strong> {html.escape(text)}</p>",
            "text/plain": f"Answer: {text}",
        }
        display.display(shown, raw=True, display_id=self._place, update=update)  # type: ignore[no-untyped-call]
