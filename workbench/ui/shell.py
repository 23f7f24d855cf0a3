"""What every pane of the page shares: who looks at it, its live region, its address, and how text becomes HTML."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from workbench.catalogue import Catalogue
from workbench.inert import visible
from workbench.lending import Lender

COOKIE = "workbench-visitor"
"""Holds 32 hexadecimal digits that tell one browser from another; the guard gives it (`guard.py`)."""

QUICK: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 16, "show_progress": "hidden"}
"""For listeners that answer at once."""

STREAMING: dict[str, Any] = {**QUICK, "concurrency_limit": 64}
"""For listeners that yield as an answer comes: those that wait for the model hold a place too."""

MAX_TEXT = 100_000
"""Characters of whatever a person types. A model's context is shorter or says so itself."""

DOWNLOAD = """(file) => {
  if (!file) return;
  const { name, type, data } = JSON.parse(file);
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([bytes], { type }));
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}"""
"""Saves a file whose bytes came in base64, so that each of them survives."""


@dataclass(frozen=True)
class Shell:
    """What a pane is built into.

    Attributes:
        blocks: the Blocks that are being built; `blocks.load` is a listener on each visit.
        live: the page's one polite live region, an output of listeners that have something to be read out
            (`said`).
        address: hidden; what a listener puts there (`query`) is the address's query from then on.
        catalogue: the models that may be talked with.
        lender: lends them.
        runs: folder of all runs.
    """

    blocks: Any
    live: Any
    address: Any
    catalogue: Catalogue
    lender: Lender
    runs: Path

    @property
    def loading(self) -> dict[str, Any]:
        """For listeners on a visit (`blocks.load`).

        At each word of an answer Gradio's page goes through every output that has ever shown progress. A visit's
        are all that there are, and would take longer than the word.
        """
        return {**QUICK, "show_progress_on": [self.live]}

    def home(self, request: Any) -> Path:
        """The folder in which a visitor's own things are kept; not made yet."""
        return self.runs / ".page" / visitor(request)


def visitor(request: Any) -> str:
    """Who asks: a name for the browser by its cookie, which cannot be told back from the name.

    Args:
        request: the `gr.Request` of a listener.

    Raises:
        PermissionError: the request brings no cookie of the guard's; no browser does that.
    """
    cookie = request.cookies.get(COOKIE, "") if request is not None else ""
    if not re.fullmatch(r"[0-9a-f]{32}", cookie):
        raise PermissionError("The request brings no visitor's cookie.")
    return hashlib.sha256(cookie.encode()).hexdigest()[:32]


def html(text: object) -> str:
    """Text as HTML that shows it as it is: nothing in it is markup, and what cannot be seen is spelled out."""
    return escape(visible(text), quote=True)


def line(text: object, problem: bool = False) -> str:
    """One paragraph; nothing for no text."""
    return f"<p{' class=problem' if problem else ''}>{html(text)}</p>" if text else ""


def said(text: object) -> str:
    """What the live region is given to have a sentence read out."""
    return html(text)


def query(tab: str, fields: Mapping[str, object] | None = None) -> str:
    """What the address ends in, so that it shows this tab with these fields; empty ones are left out."""
    told = {name: str(value) for name, value in (fields or {}).items() if value not in (None, "")}
    return "?" + urlencode({"tab": tab, **told}, errors="replace")


def asked(request: Any) -> dict[str, str]:
    """The fields of the address with which the page was opened. Anyone may have written it: check each."""
    return {str(name): str(value) for name, value in dict(request.query_params).items()}
