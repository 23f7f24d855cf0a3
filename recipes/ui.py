"""A page in the browser: talk with models, compare them, vote blind, watch runs and start recipes.

Models are loaded when they are asked for the first time.
"""

import os
import pkgutil
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any

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
        port: of the page.
        host: the page's address. At any other than 127.0.0.1 other machines reach it, which needs a password, and
            TLS (certificate and key) or a proxy.
        password_file: a file whose first line is the password, of 12 characters or more; else the environment
            variable WORKBENCH_PASSWORD holds it, if anything does.
        certificate: PEM file of the certificate for TLS.
        key: PEM file of the certificate's key, without a passphrase.
        proxy: https://NAME where a proxy with TLS stands before the page and hands on the Host header.
        start_recipes: recipes can be started from the page; only where the page is at 127.0.0.1.
        model: who can be talked with.
        also: further models of the same engine, by name or folder.
        server: addresses of OpenAI-compatible servers, as http://127.0.0.1:8000; each model that they serve can
            be talked with.
        keep: how many models may be in this process's memory at the same time.
    """

    runs: Path = Path("runs")
    port: int = 7860
    host: str = "127.0.0.1"
    password_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    proxy: str | None = None
    start_recipes: bool = False
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
    if find_spec("gradio") is None:
        raise UserError("The page needs gradio. `make ui` installs it, or `pip install 'llm-workbench[ui]'`.")
    from workbench.ui import page
    from workbench.ui.access import PASSWORD, open_access
    from workbench.ui.server import serving

    access = open_access(
        config.host,
        config.port,
        password_file=config.password_file,
        certificate=config.certificate,
        key=config.key,
        proxy=config.proxy,
        environment=os.environ,
    )
    os.environ.pop(PASSWORD, None)  # it is no business of the processes that the page starts
    if config.start_recipes and not access.local:
        raise UserError(
            f"--start-recipes lets whoever reaches the page run programs here, so the page must be at 127.0.0.1. "
            f"It would be at {access.address}."
        )
    lender = Lender(config.keep)
    catalogue = Catalogue(config.model, config.also, config.server, config.runs)
    blocks = page.build(catalogue, lender, config.runs, _recipes(), config.start_recipes)
    with freed(lender), serving(blocks, access, css=page.CSS, head=page.HEAD):
        print(f"The page: {access.address} (Ctrl-C ends it)", flush=True)
        with suppress(KeyboardInterrupt):
            Event().wait()


def _recipes() -> dict[str, tuple[type[Any], str]]:
    """Each recipe's Config and what it does: the files of this folder that have one."""
    found = {}
    for info in pkgutil.iter_modules([str(Path(__file__).parent)]):
        module = import_module(f"recipes.{info.name}") if info.name != "__main__" else None
        if hasattr(module, "Config"):
            found[info.name] = (module.Config, (module.__doc__ or "").split("\n\n", maxsplit=1)[0])
    return found


if __name__ == "__main__":
    run_script(main, Config, __file__)
