"""The page: its tabs, its live region, its address. Each tab's content is a pane, a file of this folder."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from workbench.catalogue import Catalogue
from workbench.lending import Lender
from workbench.ui import chat, runs
from workbench.ui.shell import QUICK, Shell, asked, query

CSS = files("workbench.ui").joinpath("page.css").read_text(encoding="utf-8") + chat.CSS + runs.CSS

HEAD = ""
"""What the page's head gets: the panes' scripts."""

TABS = {"chat": "Chat", "runs": "Runs"}
"""The tabs by the name that the address gives them."""

_LIVE = "element.setAttribute('role', 'status'); element.setAttribute('aria-live', 'polite');"
_SET_ADDRESS = "(q) => { if (q) history.replaceState(null, '', q); }"


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
        tabs = gr.Tabs(elem_id="tabs")
        with tabs:
            with gr.Tab(TABS["chat"], id="chat") as chat_tab:
                chat.add_chat(shell)
            with gr.Tab(TABS["runs"], id="runs") as runs_tab:
                runs.add_runs(blocks, folder)

        for name, tab in (("chat", chat_tab), ("runs", runs_tab)):
            tab.select(lambda name=name: query(name), None, [address], **QUICK)
        address.change(None, [address], None, js=_SET_ADDRESS)

        def open_tab(request: gr.Request) -> Any:
            wanted = asked(request).get("tab")
            return gr.Tabs(selected=wanted) if wanted in TABS else gr.skip()

        blocks.load(open_tab, None, [tabs], **QUICK)
    return blocks
