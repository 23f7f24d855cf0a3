"""A page in the browser: talk with models, compare them, vote blind, watch runs and start recipes.

Models are loaded when they are asked for the first time.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from workbench.catalogue import Catalogue
from workbench.chatting import freed
from workbench.command import Flat, run_script
from workbench.errors import UserError, check_range
from workbench.lending import Lender
from workbench.model_flags import ModelFlags


@dataclass(frozen=True)
class Config:
    """Where the runs are, where the page will be, and who can be talked with.

    Attributes:
        runs: folder of all runs; the models that they made can be talked with.
        port: of the page, at 127.0.0.1; no other machine can reach it.
        model: who can be talked with.
        also: further models of the same engine, by name or folder.
        server: addresses of OpenAI-compatible servers, as http://127.0.0.1:8000; each model that they serve can
            be talked with.
        keep: how many models may be in this process's memory at the same time.
    """

    runs: Path = Path("runs")
    port: int = 7860
    model: Flat[ModelFlags] = field(default_factory=ModelFlags)
    also: tuple[str, ...] = ()
    server: tuple[str, ...] = ()
    keep: int = 4


def main(config: Config) -> None:
    """Serve the page until Ctrl-C."""
    check_range("port", config.port, 1, 65535)
    check_range("keep", config.keep, 1, 100)
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]  # hosts, shares and folders to serve are not the environment's to say
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio as gr
    except ImportError as error:
        raise UserError(
            "The page needs gradio. `make ui` installs it, or `pip install 'llm-workbench[ui]'`."
        ) from error

    from workbench.ui import page
    from workbench.ui.guard import Guard

    lender = Lender(config.keep)
    blocks = page.build(Catalogue(config.model, config.also, config.server, config.runs), lender, config.runs)
    try:
        blocks.launch(
            server_name="127.0.0.1",
            server_port=config.port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css=page.CSS,
            head=page.HEAD,
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
    print(f"The page: http://127.0.0.1:{config.port} (Ctrl-C ends it)", flush=True)
    with freed(lender):
        blocks.block_thread()


if __name__ == "__main__":
    run_script(main, Config, __file__)
