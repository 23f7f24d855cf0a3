"""A page in the browser, on this machine only: your runs, and a conversation with a model.

The model is loaded when it is asked for the first time.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from workbench.chatting import ChatFlags, freed
from workbench.command import Flat, run_script
from workbench.errors import UserError, check_range


@dataclass(frozen=True)
class Config:
    """Where the runs are, where the page will be, and who is talked with.

    Attributes:
        runs: folder of all runs.
        port: of the page, at 127.0.0.1; no other machine can reach it.
        chat: who answers in the chat, and how answers are drawn.
    """

    runs: Path = Path("runs")
    port: int = 7860
    chat: Flat[ChatFlags] = field(default_factory=ChatFlags)


def main(config: Config) -> None:
    """Serve the page until Ctrl-C."""
    check_range("port", config.port, 1, 65535)
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]  # hosts, shares and folders to serve are not the environment's to say
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio as gr
    except ImportError as error:
        raise UserError(
            "The page needs gradio. `make ui` installs it, or `pip install 'llm-workbench[ui]'`."
        ) from error

    from workbench.ui import chat, runs
    from workbench.ui.guard import Guard

    speaker = config.chat.speaker()
    with gr.Blocks(title="LLM workbench", analytics_enabled=False) as page:
        gr.HTML("<h1>LLM workbench</h1>", js_on_load=None)
        with gr.Tab("Runs"):
            runs.add_runs(page, config.runs)
        with gr.Tab("Chat"):
            chat.add_chat(speaker, config.chat.model.model, config.chat.system_prompt)
    try:
        page.launch(
            server_name="127.0.0.1",
            server_port=config.port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css=runs.CSS + chat.CSS,
            allowed_paths=[],
            app_kwargs={"middleware": [(Guard, (), {})]},
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
        )
    except OSError as error:
        raise UserError(f"Port {config.port} cannot be had ({error}). Try --port {config.port + 1}.") from error
    print(f"Your runs: http://127.0.0.1:{config.port} (Ctrl-C ends it)", flush=True)
    with freed(speaker):
        page.block_thread()


if __name__ == "__main__":
    run_script(main, Config, __file__)
