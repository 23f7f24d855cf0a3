"""The page: its tabs, its live region, its address. Each tab's content is a pane, a file of this folder."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from workbench.catalogue import Catalogue
from workbench.lending import Lender
from workbench.ui import arena, chat, runs
from workbench.ui.shell import QUICK, Shell, asked

_OWN = files("workbench.ui")

CSS = _OWN.joinpath("page.css").read_text(encoding="utf-8") + chat.CSS + arena.CSS + runs.CSS

HEAD = f"<script>{_OWN.joinpath('page.js').read_text(encoding='utf-8')}{arena.JS}</script>"
"""What the page's head gets: the panes' scripts."""

TABS: dict[str, tuple[str, Callable[[Shell], None]]] = {
    "chat": ("Chat", chat.add_chat),
    "arena": ("Arena", arena.add_arena),
    "runs": ("Runs", runs.add_runs),
}
"""The tabs by the name that the address gives them: title, and what fills it."""

_LIVE = "element.setAttribute('role', 'status'); element.setAttribute('aria-live', 'polite');"
_SET_ADDRESS = """(q) => {
    if (!q) return;
    history.replaceState(null, '', q);
    (window.queries ??= {})[new URLSearchParams(q).get('tab')] = q;
}"""
# A tab that is opened has the address that it had before, or that the page was opened with.
_TAB_ADDRESS = """() => {
    const asked = new URLSearchParams(location.search).get('tab');
    if (!window.tabOpened && NAMES.includes(asked) && asked !== 'NAME') return null;  // not there yet
    window.tabOpened = true;
    return (window.queries ?? {})['NAME'] ?? (asked === 'NAME' ? location.search : '?tab=NAME');
}"""


def build(catalogue: Catalogue, lender: Lender, folder: Path) -> Any:
    """The page's Blocks, not launched yet.

    Args:
        catalogue: the models that may be talked with.
        lender: lends them.
        folder: of all runs.
    """
    import gradio as gr

    with gr.Blocks(title="LLM workbench", analytics_enabled=False) as blocks:
        gr.HTML("<h1>LLM workbench</h1>", elem_id="title", js_on_load=None)
        live = gr.HTML("", elem_id="live", js_on_load=_LIVE)
        address = gr.Textbox("", elem_id="address", visible="hidden", label="Address")
        shell = Shell(blocks, live, address, catalogue, lender, folder)
        with gr.Tabs(elem_id="tabs") as tabs:
            for name, (title, add) in TABS.items():
                with gr.Tab(title, id=name) as tab:
                    add(shell)
                tab.select(
                    None, None, [address], js=_TAB_ADDRESS.replace("NAMES", str(list(TABS))).replace("NAME", name)
                )
        address.change(None, [address], None, js=_SET_ADDRESS)

        def open_tab(request: gr.Request) -> Any:
            wanted = asked(request).get("tab")
            return gr.Tabs(selected=wanted) if wanted in TABS else gr.skip()

        blocks.load(open_tab, None, [tabs], **QUICK)
    return blocks
