"""Starting a server, looking at what there is, bringing adapters into a running one, and stopping."""

import secrets
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import UserError
from workbench.models import cache_folder
from workbench.server_state import Served, ServerState, read_states, remove_state, server_folder, write_state
from workbench.serving.adapters import LORA, SOFT, Adapter, check_rank, copy_adapter, read_adapters
from workbench.serving.asking import Refusal, Server
from workbench.serving.config import ServeConfig, api_key, command_line, environment, port_of, room
from workbench.serving.preflight import Plan, check, check_modules
from workbench.serving.process import answers, client_url, end, start_process, wait_until_up
from workbench.serving.watching import check_key, watch

if TYPE_CHECKING:
    from filelock import FileLock


def start(config: ServeConfig) -> ServerState:
    """A server that is up and whose canaries are well; it goes on when this process ends.

    Raises:
        UserError: what speaks against it, or why it did not come up; then nothing is left running. Or what its
            canaries saw; then it is left running and marked as unhealthy.
    """
    with _interrupted_by_signals(), _alone(port_of(config)):
        plan = check(config)
        _clear(port_of(config))
        state = _launch(plan)
        try:
            return watch(state, config.canaries == "full")
        except BaseException:
            if not any(seen.health == "unhealthy" for seen in read_states(state.port) if seen.mark == state.mark):
                _abandon(state)  # Ctrl-C, a signal, or no reference could be loaded
            raise


def reload(config: ServeConfig) -> tuple[ServerState, list[str]]:
    """(the server, the names that are new on it) with more adapters; what it serves already is left as it is.

    Raises:
        UserError: there is no such server, an adapter cannot be served there, or the server does not load it. Or
            what its canaries saw.
    """
    if not config.adapters:
        raise UserError("reload needs adapters: --adapters ALIAS=FOLDER.")
    state = one_server(config.port)
    with _alone(state.port):
        state = one_server(state.port)  # as whoever was at work there left it
        adapters = read_adapters(config.adapters, state.model, Path(state.folder))
        fresh = [adapter for adapter in adapters if adapter.served not in state.adapters]
        if not fresh and state.health == "healthy" and state.canaries:
            return state, []
        check_key(state)
        _check_room(state, fresh)
        before = state
        try:
            for adapter in fresh:
                state = _load(state, adapter)
        except UserError:
            if state is not before:  # those that it did load
                watch(state, config.canaries == "full")
            raise
        return watch(state, config.canaries == "full"), [adapter.served for adapter in fresh]


def _load(state: ServerState, adapter: Adapter) -> ServerState:
    """The server with one more adapter.

    Raises:
        UserError: it does not load it.
    """
    server = Server(state.url, api_key())
    try:
        with _copies():
            folder = copy_adapter(adapter)
            if adapter.kind == LORA:
                server.load(adapter.served, str(folder))
            served = Served(str(folder), adapter.kind, str(adapter.folder.resolve()))
            adapters = {**state.adapters, adapter.served: served}
            note = "its canaries have not run since a reload: repeat it"
            state = replace(state, adapters=adapters, health="unhealthy", canaries=(), note=note)
            write_state(state)
            return state
    except Refusal as error:
        raise UserError(f"The server at {state.url} does not load {adapter.served!r}: {error}.") from None
    finally:
        server.close()


def stop(state: ServerState) -> bool:
    """End a server and forget it; whether there was still something to end."""
    there = end(state)
    remove_state(state)
    _sweep()
    return there


def one_server(port: int | None) -> ServerState:
    """The server of a port, or the only one.

    Raises:
        UserError: there is none, more than one, or it does not answer.
    """
    states = read_states(port)
    if not states:
        where = "" if port is None else f" at port {port}"
        raise UserError(f"`workbench serve` has no server{where} on this machine. Start one: workbench serve")
    if len(states) > 1:
        ports = ", ".join(str(state.port) for state in states)
        raise UserError(f"There are several servers: say --port, which is one of {ports}.")
    state = states[0]
    if state.health == "dead" or not answers(state):
        raise UserError(f"The server at port {state.port} does not answer. See: workbench serve status")
    if state.health == "starting":
        raise UserError(f"The server at port {state.port} is still starting. See: workbench serve status")
    return state


def is_at_work(port: int) -> bool:
    """Whether another process starts or changes a server at the port just now."""
    try:
        with _alone(port):
            return False
    except UserError:
        return True


def _launch(plan: Plan) -> ServerState:
    """Start the process and wait until it answers; on failure nothing of it is left but its log."""
    config, port = plan.config, port_of(plan.config)
    loras = [(adapter.served, adapter.copy) for adapter in plan.loras]
    mark = secrets.token_hex(16)
    command = command_line(config, plan.build, plan.folder, loras, plan.rank, plan.modules, plan.embeds)
    with _copies():
        for adapter in plan.adapters:
            copy_adapter(adapter)
        process, created = start_process(
            command, environment(config, plan.build, mark, lora=plan.rank > 0), server_folder(port) / "server.log"
        )
        state = ServerState(
            url=client_url(config.host, port),
            host=config.host,
            port=port,
            model=config.model,
            revision=config.revision,
            folder=str(plan.folder.resolve()),
            pid=process.pid,
            created=created,
            mark=mark,
            python=str(plan.build.python),
            version=f"{plan.build.version} {plan.build.kind}",
            command=tuple(command),
            dtype=config.dtype,
            max_lora_rank=plan.rank,
            room=room(config, len(loras)) if plan.build.kind == "cpu" else None,
            prompt_embeds=plan.embeds,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            adapters={a.served: Served(str(a.copy), a.kind, str(a.folder.resolve())) for a in plan.adapters},
        )
        try:
            write_state(state)
        except BaseException:
            end(state, gentle=0)
            raise
    try:
        wait_until_up(state, process, config.timeout)
    except BaseException:  # Ctrl-C too
        _abandon(state)
        raise
    return state


def _abandon(state: ServerState) -> None:
    """End a server that did not become one; its log stays."""
    end(state, gentle=5)
    (state.place / "state.json").unlink(missing_ok=True)
    _sweep()


def _check_room(state: ServerState, fresh: Sequence[Adapter]) -> None:
    """See that a running server can take more adapters.

    Raises:
        UserError: it cannot; the message says how to start one that can.
    """
    loras = [adapter for adapter in fresh if adapter.kind == LORA]
    again = f"Start it again: workbench serve stop --port {state.port}, then workbench serve"
    if loras and not state.max_lora_rank:
        raise UserError(
            f"The server at port {state.port} takes no LoRA. {again} with --adapters or --max-lora-rank."
        )
    check_rank(loras, state.max_lora_rank, f"{again} with a larger --max-lora-rank.")
    if any(adapter.kind == SOFT for adapter in fresh) and not state.prompt_embeds:
        raise UserError(f"The server at port {state.port} takes no embeddings. {again} with --prompt-embeds.")
    if state.room is not None:
        check_modules(Path(state.folder), tuple(loras))
        there = sum(served.kind == LORA for served in state.adapters.values())
        if there + len(loras) > state.room:
            raise UserError(
                f"The server at port {state.port} has room for {state.room} LoRAs (max_loras), of which {there} "
                f"are taken. {again} with a larger --max-loras."
            )


def _clear(port: int) -> None:
    """Sweep up after a server that died at this port."""
    for state in read_states(port):
        end(state, gentle=5)
        remove_state(state)


def _sweep() -> None:
    """Delete the copies of adapters that no server serves any more."""
    with _copies():
        try:
            used = {Path(served.folder).name for state in read_states() for served in state.adapters.values()}
        except UserError:  # a damaged state does not tell what its server serves: all copies stay
            return
        for folder in (cache_folder() / "servers" / "adapters").glob("*"):
            if folder.name not in used:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """While this runs, SIGTERM and SIGHUP (a terminal that closes) are a Ctrl-C: what was started is ended."""
    # Elsewhere Python has no handlers; one that is ignored (nohup) stays so.
    main = threading.current_thread() is threading.main_thread()
    names = [name for name in ("SIGTERM", "SIGHUP") if main and hasattr(signal, name)]
    before = {sign: signal.getsignal(sign) for sign in (signal.Signals[name] for name in names)}
    caught = [sign for sign, handler in before.items() if handler != signal.SIG_IGN]

    def interrupt(*_: Any) -> None:
        for sign in caught:
            signal.signal(sign, signal.SIG_IGN)  # a second one would break off the end
        raise KeyboardInterrupt

    try:
        for sign in caught:
            signal.signal(sign, interrupt)
        yield
    finally:
        for sign in caught:
            signal.signal(sign, before[sign])


@contextmanager
def _copies() -> Iterator[None]:
    """While this runs, no other process makes or deletes copies of adapters; others wait."""
    with _lock("adapters"):
        yield


@contextmanager
def _alone(port: int) -> Iterator[None]:
    """While this runs, no other process starts or changes a server at the port.

    Raises:
        UserError: another one does.
    """
    from filelock import Timeout

    try:
        with _lock(str(port), timeout=0):
            yield
    except Timeout:
        raise UserError(
            f"Another `workbench serve` is at work on port {port}. Wait for it, or say another --port."
        ) from None


def _lock(name: str, timeout: float = -1) -> "FileLock":
    from filelock import FileLock

    folder = cache_folder() / "servers"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock", timeout=timeout)
