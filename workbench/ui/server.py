"""Serves the page: Gradio's application behind the guard, on one address, until the block ends."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from workbench.errors import UserError
from workbench.ui.access import Access
from workbench.ui.guard import Guard

_STARTING = 60.0  # seconds
_ENDING = 5.0


@contextmanager
def serving(blocks: Any, access: Access, css: str = "", head: str = "") -> Iterator[None]:
    """Serve a page as long as the block runs; it answers when the block begins.

    Gradio's own `launch` puts other things before the guard, and asks itself for an answer without a password.

    Args:
        blocks: Gradio's Blocks.
        access: where, and to whom.
        css: the page's styles.
        head: what its head gets.

    Raises:
        UserError: the address cannot be had.
    """
    import uvicorn

    listening = _listen(access)
    config = uvicorn.Config(
        Guard(_application(blocks, css, head), access),
        log_level="warning",
        ssl_certfile=access.certificate,
        ssl_keyfile=access.key,
        proxy_headers=False,
        server_header=False,
        ws="none",
    )
    server = uvicorn.Server(config)
    # A thread, so that Ctrl-C is this program's to handle, not uvicorn's.
    thread = threading.Thread(target=server.run, args=([listening],), name="workbench-page", daemon=True)
    thread.start()
    try:
        until = time.monotonic() + _STARTING
        while not server.started:
            if not thread.is_alive() or time.monotonic() > until:
                raise RuntimeError("the page's server did not start")
            time.sleep(0.01)
        yield
    finally:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # browsers that hang on are cut off
        server.should_exit = server.force_exit = True
        thread.join(_ENDING)
        listening.close()


def _application(blocks: Any, css: str, head: str) -> Any:
    import fastapi
    import gradio as gr

    async def unknown(request: fastapi.Request, error: Exception) -> fastapi.Response:
        # A page of before an update may ask for a listener that is no more; Gradio looks it up in a dictionary.
        return fastapi.responses.PlainTextResponse("There is no such event. Reload the page.", 400)

    return gr.mount_gradio_app(
        fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        blocks,
        path="/",
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=css,
        head=head,
        app_kwargs={"exception_handlers": {KeyError: unknown}},
        allowed_paths=[],
        footer_links=[],
        run_history=False,
        show_error=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
    )


def _listen(access: Access) -> socket.socket:
    listening: socket.socket | None = None
    try:
        where = socket.getaddrinfo(access.host, access.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        # Its protocol is named, unlike `socket.create_server`'s: asyncio switches Nagle's algorithm off for such
        # alone, and with it each word would wait 40 ms for the browser to acknowledge the one before.
        listening = socket.socket(*where[0][:3])
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where[0][4])
        listening.listen(128)
    except OSError as error:
        if listening is not None:
            listening.close()
        raise UserError(
            f"{access.host}:{access.port} cannot be had ({error}). Try --port {access.port % 65535 + 1}."
        ) from error
    return listening
