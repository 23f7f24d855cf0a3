"""The page: its tabs, its live region, its address. Each tab's content is a pane, a file of this folder."""

from collections.abc import Callable, Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from workbench.catalogue import Catalogue
from workbench.lending import Lender
from workbench.ui import arena, chat, compare, recipes, runs
from workbench.ui.shell import Shell

_OWN = files("workbench.ui")

CSS = (
    _OWN.joinpath("page.css").read_text(encoding="utf-8")
    + chat.CSS
    + compare.CSS
    + arena.CSS
    + runs.CSS
    + recipes.CSS
)

HEAD = f"<script>{_OWN.joinpath('page.js').read_text(encoding='utf-8')}{arena.JS}</script>"
"""What the page's head gets: the panes' scripts."""

TABS: dict[str, tuple[str, Callable[[Shell], None]]] = {
    "chat": ("Chat", chat.add_chat),
    "compare": ("Compare", compare.add_compare),
    "arena": ("Arena", arena.add_arena),
    "runs": ("Runs", runs.add_runs),
}
"""The tabs by the name that the address gives them: title, and what fills it."""

_LIVE = "element.setAttribute('role', 'status'); element.setAttribute('aria-live', 'polite');"
# A tab that is not shown may be given another address, by an answer that ends in it: it has it when it is opened.
_SET_ADDRESS = """(q) => {
    if (!q) return;
    const tab = new URLSearchParams(q).get('tab');
    (window.queries ??= {})[tab] = q;
    const shown = window.tabOpened ?? new URLSearchParams(location.search).get('tab') ?? tab;
    if (tab === shown) history.replaceState(null, '', q);
}"""
# A tab that is opened has the address that it had before, or that the page was opened with.
_TAB_ADDRESS = """() => {
    const asked = new URLSearchParams(location.search).get('tab');
    if (!window.tabOpened && NAMES.includes(asked) && asked !== 'NAME') return null;  // not there yet
    window.tabOpened = 'NAME';
    const q = (window.queries ??= {})['NAME'] ??= asked === 'NAME' ? location.search : '?tab=NAME';
    history.replaceState(null, '', q);  // here, since the last address that was told may be this very one
    return q;
}"""

_OPEN_TAB = """() => {
    const asked = new URLSearchParams(location.search).get('tab');
    return {selected: NAMES.includes(asked) ? asked : NAMES[0], __type__: 'update'};
}"""


def build(
    catalogue: Catalogue,
    lender: Lender,
    folder: Path,
    known: Mapping[str, tuple[type[Any], str]],
    may_start: bool,
) -> Any:
    """The page's Blocks, not launched yet.

    Args:
        catalogue: the models that may be talked with.
        lender: lends them.
        folder: of all runs.
        known: each recipe's Config and what it does.
        may_start: whether recipes may be started from the page.
    """
    import gradio as gr

    add_recipes = partial(recipes.add_recipes, known=known, may_start=may_start)
    tabs_of: dict[str, tuple[str, Callable[[Shell], None]]] = {**TABS, "recipes": ("Recipes", add_recipes)}

    with gr.Blocks(title="LLM workbench", analytics_enabled=False) as blocks:
        gr.HTML("<h1>LLM workbench</h1>", elem_id="title", js_on_load=None)
        live = gr.HTML("", elem_id="live", js_on_load=_LIVE)
        address = gr.Textbox("", elem_id="address", visible="hidden", label="Address")
        shell = Shell(blocks, live, address, catalogue, lender, folder)
        with gr.Tabs(elem_id="tabs") as tabs:
            for name, (title, add) in tabs_of.items():
                with gr.Tab(title, id=name) as tab:
                    add(shell)
                script = _TAB_ADDRESS.replace("NAMES", str(list(tabs_of))).replace("NAME", name)
                tab.select(None, None, [address], js=script)
        address.change(None, [address], None, js=_SET_ADDRESS)

        # By the browser alone: an answer of the server's may come when another tab has been opened.
        blocks.load(None, None, [tabs], js=_OPEN_TAB.replace("NAMES", str(list(tabs_of))))
    return blocks
