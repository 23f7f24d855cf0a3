"""The canaries of a server that is up: which names are asked, what they are compared with, and what follows."""

import base64
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from workbench.errors import UserError
from workbench.models import load_tokenizer
from workbench.server_state import ServerState, write_state
from workbench.serving.adapters import SOFT
from workbench.serving.asking import Asked, Server
from workbench.serving.canaries import BOUNDS, look
from workbench.serving.config import KEY, api_key
from workbench.types import Model


def watch(state: ServerState, full: bool) -> ServerState:
    """Run the canaries of every served name, and write down what they saw.

    Args:
        state: of a server that answers.
        full: compare with the model in transformers too.

    Raises:
        UserError: one of them is out of bounds; or the server refuses the key, and nothing is written.
    """
    from workbench.engines.encode import Encoder
    from workbench.serving.reference import find_reference

    check_key(state)
    reference, bounds, note = (
        find_reference(state) if full else (None, BOUNDS, "compared with itself only, as asked")
    )
    base = Model(state.folder)
    asked = [Asked(state.model, state.model)]
    for name, served in state.adapters.items():
        soft = _embed(replace(base, adapter=served.folder)) if served.kind == SOFT else None
        asked.append(Asked(name, state.model if soft else name, soft))
    server = Server(state.url, api_key())
    try:
        encoder = Encoder(load_tokenizer(base))
        seen = look(server, encoder, asked, reference.score if reference else None, bounds)
    finally:
        server.close()
    healthy = all(canary.passed for canary in seen)
    state = replace(state, health="healthy" if healthy else "unhealthy", canaries=tuple(seen), note=note)
    write_state(state)
    if not healthy:
        told = "\n".join(f"    {canary}" for canary in state.failed)
        raise UserError(
            f"The server at {state.url} is up, and does not compute the model: its canaries failed.\n{told}\n"
            "The engine vllm refuses it. See `workbench serve status`; end it with "
            f"`workbench serve stop --port {state.port}`."
        )
    return state


def check_key(state: ServerState) -> None:
    """See that the server takes this command's key: it would fail the canaries of every one that is another.

    Raises:
        UserError: it does not.
    """
    server = Server(state.url, api_key())
    try:
        taken = server.takes_key()
    finally:
        server.close()
    if not taken:
        how = "another key" if api_key() else "a key"
        raise UserError(f"The server at {state.url} wants {how}: set {KEY} to the one that it was started with.")


def _embed(model: Model) -> Callable[[list[int]], str]:
    """From a prompt's ids to the embeddings that a soft prompt makes of it."""
    from workbench.engines.soft_client import read_embeddings, read_soft_prompt

    table_VD = read_embeddings(Path(model.base))
    soft = read_soft_prompt(model, table_VD.shape[1]).to(table_VD.dtype)

    def embed(ids: list[int]) -> str:
        import torch

        rows = torch.cat([soft, table_VD[torch.tensor(ids, dtype=torch.long)]])
        file = io.BytesIO()
        torch.save(rows, file)
        return base64.b64encode(file.getvalue()).decode("ascii")

    return embed
