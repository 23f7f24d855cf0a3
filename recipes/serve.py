"""A vLLM server of a model and its adapters: `start` it (the default), or `status`, `reload`, `stop`.

    workbench serve --model MODEL --adapters ALIAS=FOLDER … --python .venv-vllm/bin/python
    workbench serve status                                   every server of this machine, and how it is
    workbench serve reload --adapters ALIAS=FOLDER           one more adapter on a running server
    workbench serve stop                                     end them all, or --port's

The server is a process of its own and goes on when this command ends. What would fail is refused before the start,
and canary prompts are compared with the engine hf before the server counts as healthy. An API key is read from the
environment variable WORKBENCH_API_KEY. Several machines: join them with Ray, then --executor ray and
--tensor-parallel or --pipeline-parallel.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import Positional

from workbench.command import Flat, run_script
from workbench.errors import UserError
from workbench.server_state import LOOPBACK, ServerState, read_states
from workbench.serving.config import ServeConfig

USED = {"status": ("port",), "stop": ("port",), "reload": ("port", "adapters", "canaries")}
"""The flags of the actions other than `start`, which takes all."""


@dataclass(frozen=True)
class Config:
    """What to do, and with which server.

    Attributes:
        action: `start`, `status`, `reload` or `stop`.
        server: the server.
    """

    action: Annotated[Literal["start", "status", "reload", "stop"], Positional] = "start"
    server: Flat[ServeConfig] = field(default_factory=ServeConfig)


def main(config: Config) -> list[ServerState]:
    """Do it, say what is there now, and return the servers that it was done to."""
    used = USED.get(config.action)
    if used is not None and (unused := config.server.unused(used)):
        flags = ", ".join("--" + name.replace("_", "-") for name in unused)
        raise UserError(f"`serve {config.action}` has no use for {flags}.")
    return {"start": _start, "status": _status, "reload": _reload, "stop": _stop}[config.action](config.server)


def _start(config: ServeConfig) -> list[ServerState]:
    from workbench.serving.server import start

    state = start(config)
    print(f"{state.url} serves:")
    _names(state)
    _health(state)
    print(f"Ask it: workbench zero_shot --model {state.model} --engine vllm --endpoint {state.url}")
    print(f"End it: workbench serve stop --port {state.port}")
    if config.host not in LOOPBACK:
        print("The key guards /v1 only. Before a network that is not trusted, put a proxy that guards all of it.")
    return [state]


def _reload(config: ServeConfig) -> list[ServerState]:
    from workbench.serving.server import reload

    state, fresh = reload(config)
    print(f"{state.url} now serves {', '.join(fresh)}." if fresh else f"{state.url} serves that already.")
    _names(state)
    _health(state)
    return [state]


def _status(config: ServeConfig) -> list[ServerState]:
    from workbench.serving.process import answers, log_words
    from workbench.serving.server import is_at_work

    states = _chosen(config)
    for state in states:
        health: str = state.health
        if health == "starting" and not is_at_work(state.port):
            health = "its start was broken off: stop it"
        elif health not in ("starting", "dead") and not answers(state):
            health = f"{health}, and does not answer"
        print(f"{state.url}  {health}  vLLM {state.version}  pid {state.pid}  since {state.started}")
        _names(state)
        _health(state)
        if state.health == "dead":
            print(log_words(state))
            print(f"Sweep up after it: workbench serve stop --port {state.port}")
    if not states:
        print("No server. Start one: workbench serve")
    return states


def _stop(config: ServeConfig) -> list[ServerState]:
    from workbench.serving.server import stop

    states = _chosen(config)
    for state in states:
        print(f"{state.url}: {'stopped' if stop(state) else 'was gone already; what it left is swept up'}")
    if not states:
        print("No server to stop.")
    return states


def _chosen(config: ServeConfig) -> list[ServerState]:
    """The servers of this machine, or the one at the port."""
    return read_states(config.port)


def _names(state: ServerState) -> None:
    print(f"  {state.model}")
    for name, served in state.adapters.items():
        how = "  (a soft prompt: it goes with each request)" if served.kind == "PROMPT_TUNING" else ""
        print(f"  {name}  {served.source}{how}")


def _health(state: ServerState) -> None:
    """What the canaries saw: the failed checks in full, else the largest value of each kind."""
    for canary in state.failed:
        print(f"  failed: {canary}")
    if state.canaries and not state.failed:
        largest = {c.check: max(o.value for o in state.canaries if o.check == c.check) for c in state.canaries}
        told = ", ".join(f"{check} {value:.3f}" for check, value in largest.items() if check != "tokens")
        print(f"  canaries are well; nats a token at most: {told}")
    if state.note:
        print(f"  {state.note}")


if __name__ == "__main__":
    run_script(main, Config, __file__)
