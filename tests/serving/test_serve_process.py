"""`workbench serve` against a stand-in for vLLM: starts, failures, reloads, ends, and what is left of each."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from recipes.serve import Config, main
from workbench.engines.vllm import VllmEngine
from workbench.errors import UserError
from workbench.identity import folder_hash
from workbench.server_state import ServerState, lives, read_states, server_folder, write_state
from workbench.serving import server
from workbench.serving.asking import Refusal, Server
from workbench.serving.config import MARK, ServeConfig
from workbench.serving.process import end, processes_of
from workbench.serving.server import reload, start, stop
from workbench.serving.watching import watch
from workbench.types import Model

Make = Callable[..., ServeConfig]


def left(mark: str | None = None) -> list[int]:
    """Processes that carry this mark of a server; without one any mark, of a server that this test started.

    Its cache folder is its own, so that it tells those of tests that run beside it.
    """
    found = []
    for process in psutil.process_iter():
        try:
            told = process.environ()
            ours = (
                told.get("XDG_CACHE_HOME") == os.environ["XDG_CACHE_HOME"]
                if mark is None
                else told.get(MARK) == mark
            )
            if MARK in told and ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def kill(state: ServerState) -> None:
    os.kill(state.pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(state.pid)], timeout=10)
    assert not lives(state)


def names(state: ServerState) -> list[str]:
    cards = httpx.get(f"{state.url}/v1/models").json()["data"]
    return [card["id"] for card in cards]


def test_from_start_to_stop(config: Make, loras: Path, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    served = f"one-{folder_hash(loras / 'one')[:8]}"
    [state] = main(Config("start", config(adapters=(f"one={loras / 'one'}",))))
    said = capsys.readouterr().out
    assert state.url == f"http://127.0.0.1:{port}"
    assert f"workbench zero_shot --model {state.model} --engine vllm --endpoint {state.url}" in said
    assert names(state) == [state.model, served]
    assert state.health == "healthy"
    assert {canary.check for canary in state.canaries} == {"self", "tokens"}
    assert state.max_lora_rank == 8
    assert len(processes_of(state)) == 2

    [seen] = main(Config("status"))
    assert seen == state
    said = capsys.readouterr().out
    assert f"{state.url}  healthy  vLLM 0.32.0 cpu  pid {state.pid}" in said
    assert served in said and "canaries are well" in said

    main(Config("stop"))
    assert "stopped" in capsys.readouterr().out
    assert left(state.mark) == [] and read_states() == []
    main(Config("stop"))
    assert "No server to stop." in capsys.readouterr().out
    main(Config("status"))
    assert "No server." in capsys.readouterr().out


def test_the_command_and_the_environment(config: Make, loras: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_API_KEY", "sesame-open")
    monkeypatch.setenv("VLLM_API_KEY", "another")
    state = start(config(adapters=(str(loras / "one"), str(loras / "soft")), vllm_args="--max-num-seqs 4"))
    told = " ".join(state.command)
    for part in (
        "-m vllm.entrypoints.openai.api_server", f"--model {Path(state.model).resolve()}",
        f"--served-model-name {state.model}", "--generation-config vllm", "--enforce-eager", "--dtype bfloat16",
        "--enable-prompt-embeds", "--no-enable-chunked-prefill", "--max-num-seqs 4",
        "--enable-lora --max-lora-rank 8 --max-loras 6",
        "--lora-target-modules down_proj gate_proj k_proj o_proj q_proj up_proj v_proj",
    ):  # fmt: skip
        assert part in told
    environ = psutil.Process(state.pid).environ()
    assert environ["VLLM_API_KEY"] == "sesame-open" and "WORKBENCH_API_KEY" not in environ
    assert environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == environ["VLLM_NO_USAGE_STATS"] == "1"
    assert environ["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert httpx.post(f"{state.url}/v1/completions", json={}).status_code == 401
    for path in state.place.rglob("*"):
        assert "sesame-open" not in path.read_text()
    soft = [served for served in state.adapters.values() if served.kind == "PROMPT_TUNING"]
    assert len(soft) == 1 and state.prompt_embeds


def test_what_is_served_does_not_change_with_its_folder(
    config: Make, changed_adapter: Callable[..., Path]
) -> None:
    folder = changed_adapter()
    state = start(config(adapters=(f"a={folder}",)))
    [(name, served)] = state.adapters.items()
    (folder / "adapter_config.json").write_text("{}")
    assert Path(served.folder) != folder
    assert folder_hash(served.folder).startswith(name.removeprefix("a-"))
    stop(state)
    assert not Path(served.folder).exists()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            {"die": "(EngineCore pid=7) ERROR 11-01 12:00:00 [core.py:1] ValueError: LoRA rank 16 is greater"},
            ["ended with status 1", "ValueError: LoRA rank 16", "say --max-lora-rank"],
        ),
        ({"die": "nothing known", "status": 3}, ["ended with status 3", "    nothing known"]),
        ({"hang": True}, ["did not answer within 1 s (timeout)", "    stub started", "--timeout"]),
    ],
)
def test_a_server_that_does_not_come_up(
    config: Make, faults: Callable[..., None], loras: Path, fault: dict[str, Any], words: list[str], port: int
) -> None:
    faults(**fault)
    with pytest.raises(UserError) as refused:
        start(config(adapters=(str(loras / "one"),), timeout=1.0 if "hang" in fault else 60.0))
    for part in words:
        assert part in str(refused.value)
    log = server_folder(port) / "server.log"
    assert f"The whole log: {log}" in str(refused.value) and log.is_file()
    assert left() == [] and read_states() == []
    assert list((server_folder(port).parent / "adapters").iterdir()) == []


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_ends_the_start_ends_the_server_too(
    config: Make,
    cache: Path,
    tiny_model: Path,
    python: Path,
    port: int,
    sign: signal.Signals,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = f"serve --model {tiny_model} --python {python} --port {port}"
    ours = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and children inherit that
    process = subprocess.Popen(
        [sys.executable, "-m", "recipes", *command.split()],
        env={**os.environ, "STUB_VLLM": '{"hang": true}'},
        cwd=Path(__file__).parents[2],
    )
    signal.signal(signal.SIGHUP, ours)
    deadline = time.monotonic() + 60
    while not read_states():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    [state] = read_states()
    assert state.health == "starting"
    main(Config("status"))
    assert f"{state.url}  starting  vLLM" in capsys.readouterr().out
    process.send_signal(sign)
    assert process.wait(30) == 130
    assert left(state.mark) == [] and read_states() == []


def test_a_start_that_was_killed_is_told(config: Make, capsys: pytest.CaptureFixture[str]) -> None:
    state = start(config())
    write_state(replace(state, health="starting", canaries=()))
    main(Config("status"))
    assert "its start was broken off: stop it" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"has not been checked: it is still starting"):
        VllmEngine(Model(state.model), [state.url]).version  # noqa: B018


def test_signals_are_as_they_were_behind_a_start(config: Make) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        start(config())
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == (before[0], signal.SIG_IGN)
    finally:
        signal.signal(signal.SIGHUP, before[1])


def test_a_proxy_is_not_for_this_machine(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert start(config(timeout=20.0)).health == "healthy"


def test_orphans_of_a_killed_server_are_ended(config: Make, capsys: pytest.CaptureFixture[str]) -> None:
    state = start(config())
    kill(state)
    assert len(left(state.mark)) == 1, "its engine goes on"
    [seen] = main(Config("status"))
    assert seen.health == "dead"
    said = capsys.readouterr().out
    assert "dead" in said and "stub started" in said and "workbench serve stop" in said
    assert stop(seen)
    assert left(state.mark) == [] and read_states() == []


def test_a_new_server_takes_the_place_of_a_dead_one(config: Make) -> None:
    dead = start(config())
    kill(dead)
    state = start(config())
    assert left(dead.mark) == []
    assert [seen.mark for seen in read_states()] == [state.mark]


def test_what_a_server_leaves_behind_is_ended(config: Make, faults: Callable[..., None]) -> None:
    faults(careless=True)
    state = start(config())
    assert stop(state)
    assert left(state.mark) == []


def test_processes_that_do_not_end_are_killed(config: Make, faults: Callable[..., None]) -> None:
    faults(stubborn=True)
    state = start(config())
    assert end(state, gentle=0.5)
    assert left(state.mark) == []


def test_a_process_that_got_the_pid_of_a_dead_server_is_left_alone(config: Make, cache: Path) -> None:
    state = start(config())
    stop(state)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        write_state(replace(state, pid=other.pid, created=state.created - 60))
        [seen] = read_states()
        assert seen.health == "dead"
        assert not stop(seen)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


# --- canaries -----------------------------------------------------------------------------------------


def test_a_server_that_decodes_wrongly_is_unhealthy(
    config: Make, faults: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    faults(off=0.5)
    with pytest.raises(UserError, match=r"canaries failed.\n    .*, self: 0\.500, at most 0\.1\. '.*as it drew"):
        start(config())
    [state] = main(Config("status"))
    assert state.health == "unhealthy"
    assert "failed: " in capsys.readouterr().out
    assert len(left(state.mark)) == len(left()) == 2, "it is left running, so that one can look"
    with pytest.raises(UserError, match=r"self.*workbench serve status"):
        VllmEngine(Model(state.model), [state.url]).version  # noqa: B018


def test_a_server_of_other_weights_is_unhealthy(config: Make) -> None:
    # The stand-in agrees with itself, and computes no model at all.
    with pytest.raises(UserError, match=r"canaries failed"):
        start(config(canaries="full"))
    [state] = read_states()
    assert {canary.check for canary in state.failed} == {"prefill", "decode", "greedy"}


def test_a_server_with_another_template_is_unhealthy(config: Make, faults: Callable[..., None]) -> None:
    faults(template="Hello. ")
    with pytest.raises(UserError, match=r"tokens: 7.000, at most 0.*has other tokens there"):
        start(config())


def test_a_server_that_answers_nothing_is_unhealthy(config: Make, faults: Callable[..., None]) -> None:
    faults(fail="EngineCore encountered an issue.")
    with pytest.raises(UserError, match=r"answer: nan, at most 0.*HTTP 500.*EngineCore encountered"):
        start(config())


# --- reload -------------------------------------------------------------------------------------------


def test_reload(config: Make, loras: Path, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    start(config(adapters=(f"a={loras / 'one'}",)))
    told = ServeConfig(port=port, adapters=(f"a={loras / 'two'}",), canaries="self")
    [state] = main(Config("reload", told))
    served = f"a-{folder_hash(loras / 'two')[:8]}"
    assert f"now serves {served}." in capsys.readouterr().out
    assert names(state)[2:] == [served] and list(state.adapters)[1:] == [served]
    assert {canary.served for canary in state.canaries} == set(names(state))
    before = server_folder(port).joinpath("state.json").stat().st_mtime_ns
    main(Config("reload", told))
    assert "serves that already." in capsys.readouterr().out
    assert server_folder(port).joinpath("state.json").stat().st_mtime_ns == before


def test_a_reload_that_the_server_refuses_changes_nothing(
    config: Make, loras: Path, port: int, faults: Callable[..., None]
) -> None:
    faults(refuse="no such file")
    state = start(config(max_lora_rank=8))
    with pytest.raises(UserError, match=r"does not load 'two-.*': .*HTTP 500: .*no such file"):
        reload(ServeConfig(port=port, adapters=(str(loras / "two"),)))
    assert read_states() == [state]


def test_what_reload_refuses(config: Make, loras: Path, port: int, changed_adapter: Callable[..., Path]) -> None:
    one, two, soft = (str(loras / name) for name in ("one", "two", "soft"))
    with pytest.raises(UserError, match=r"has no server on this machine"):
        reload(ServeConfig(adapters=(one,)))
    state = start(config())
    with pytest.raises(UserError, match=f"has no server at port {port + 1}"):
        reload(ServeConfig(port=port + 1, adapters=(one,)))
    with pytest.raises(UserError, match=r"reload needs adapters"):
        reload(ServeConfig(port=port))
    with pytest.raises(UserError, match=r"takes no LoRA.*--max-lora-rank"):
        reload(ServeConfig(adapters=(one,)))
    with pytest.raises(UserError, match=r"takes no embeddings.*--prompt-embeds"):
        reload(ServeConfig(adapters=(soft,)))
    stop(state)
    start(config(max_lora_rank=1, max_loras=1))
    with pytest.raises(UserError, match=r"has the rank 4 .*max_lora_rank is 1\..*larger --max-lora-rank"):
        reload(ServeConfig(adapters=(one,)))
    [state] = read_states()
    stop(state)
    start(config(adapters=(one,), max_loras=1))
    with pytest.raises(UserError, match=r"has room for 1 LoRAs .*of which 1 are taken.*larger --max-loras"):
        reload(ServeConfig(adapters=(two,)))


def test_flags_that_an_action_has_no_use_for() -> None:
    with pytest.raises(UserError, match="`serve stop` has no use for --model, --vllm-args"):
        main(Config("stop", ServeConfig(model="x", vllm_args="--foo")))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--hf-token hf_SECRET", "HF_TOKEN"),
        ("--hf_token=hf_SECRET", "HF_TOKEN"),
        ("--ssl-keyfile key.pem", "plain HTTP"),
        ("--ssl-certfile cert.pem", "plain HTTP"),
        ("--headless", "--executor ray"),
    ],
)
def test_arguments_that_serve_refuses(arguments: str, words: str) -> None:
    with pytest.raises(UserError, match=f"which `workbench serve` refuses: .*{words}") as refused:
        ServeConfig(vllm_args=arguments)
    assert "SECRET" not in str(refused.value)
    assert ServeConfig(vllm_args="--hf-overrides '{}'").further()


def test_two_at_once_on_one_port(config: Make, cache: Path, port: int) -> None:
    from filelock import FileLock

    (cache / "servers").mkdir(parents=True)
    with (
        FileLock(cache / "servers" / f"{port}.lock"),
        pytest.raises(UserError, match=r"Another `workbench serve`"),
    ):
        start(config())


def test_the_state_is_json(config: Make) -> None:
    state = start(config())
    told = json.loads((state.place / "state.json").read_text())
    assert told["health"] == "healthy" and told["port"] == state.port


def test_ctrl_c_while_the_canaries_run_ends_the_server_too(
    config: Make, monkeypatch: pytest.MonkeyPatch, loras: Path
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "watch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start(config())
    assert left() == [] and read_states() == []


def test_a_reload_that_was_interrupted_says_so(
    config: Make, loras: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(config(max_lora_rank=8))

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "watch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        reload(ServeConfig(adapters=(str(loras / "one"),)))
    [state] = read_states()
    assert state.note.startswith("its canaries have not run since a reload") and len(state.adapters) == 1
    with pytest.raises(UserError, match="has not been checked: its canaries have not run since a reload"):
        VllmEngine(Model(state.model), [state.url]).version  # noqa: B018
    monkeypatch.setattr(server, "watch", watch)
    state, fresh = reload(ServeConfig(port=port, adapters=(str(loras / "one"),), canaries="self"))
    assert not fresh and state.health == "healthy" and state.canaries


@pytest.mark.parametrize("wrong", [None, "another"])
def test_a_reload_with_another_key_leaves_the_server_as_it_is(
    config: Make, loras: Path, port: int, monkeypatch: pytest.MonkeyPatch, wrong: str | None
) -> None:
    monkeypatch.setenv("WORKBENCH_API_KEY", "sesame-open")
    state = start(config(prompt_embeds=True))
    told = ServeConfig(port=port, adapters=(f"s={loras / 'soft'}",), canaries="self")
    with monkeypatch.context() as other:
        other.delenv("WORKBENCH_API_KEY")
        if wrong:
            other.setenv("WORKBENCH_API_KEY", wrong)
        with pytest.raises(UserError, match=r"wants (a|another) key: set WORKBENCH_API_KEY"):
            reload(told)
    assert read_states() == [state]
    assert reload(told)[0].health == "healthy"


def test_what_loaded_before_a_refusal_is_checked(
    config: Make, loras: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(config(max_lora_rank=8))
    load = Server.load

    def refuse_two(self: Server, name: str, folder: str) -> None:
        if name.startswith("two"):
            raise Refusal("no")
        load(self, name, folder)

    monkeypatch.setattr(Server, "load", refuse_two)
    with pytest.raises(UserError, match="does not load 'two-"):
        reload(ServeConfig(port=port, adapters=(str(loras / "one"), str(loras / "two")), canaries="self"))
    [state] = read_states()
    assert state.health == "healthy" and len(state.adapters) == 1
    assert {canary.served for canary in state.canaries} == {state.model, *state.adapters}


def test_a_key_that_the_server_repeats_is_kept_nowhere(
    config: Make, faults: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_API_KEY", "sesame-open")
    faults(fail="Bearer sesame-open met an issue")
    with pytest.raises(UserError, match=r"Bearer \*\*\* met an issue") as refused:
        start(config())
    [state] = read_states()
    assert "sesame-open" not in str(refused.value) + (state.place / "state.json").read_text()


@pytest.mark.parametrize("mark", [None, "", 7])
def test_a_state_without_a_mark_has_no_processes(config: Make, mark: Any) -> None:
    state = start(config())
    assert processes_of(replace(state, mark=mark)) == []
    path = state.place / "state.json"
    whole = path.read_text()
    path.write_text(json.dumps(json.loads(whole) | {"mark": mark}))
    try:
        with pytest.raises(UserError, match=r"damaged.*its mark is no text"):
            read_states()
    finally:
        path.write_text(whole)


def test_a_damaged_state_keeps_no_other_server_from_its_end(config: Make, port: int) -> None:
    start(config())
    broken = server_folder(port + 1) / "state.json"
    broken.parent.mkdir()
    broken.write_text("{}")
    try:
        main(Config("stop", ServeConfig(port=port)))
        assert not server_folder(port).exists()
    finally:
        broken.unlink()
