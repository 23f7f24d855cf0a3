"""The recipe parity: what systems that differ in known ways are found to be, going on after a stop, bad input."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engines.stub_server import StubServer, good_answer

import recipes.parity
from recipes.parity import Config
from workbench.decodes import Sampling
from workbench.engines import EngineConfig
from workbench.engines.base import Engine, TokenScore, TokenScores
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.parity import asking
from workbench.parity.bounds import Bounds
from workbench.parity.bounds import Config as BothBounds
from workbench.parity.rows import Row
from workbench.runs import RunFolder
from workbench.session import Setup
from workbench.store import Store
from workbench.types import Completion, Finish, Model, Request

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = ("practice=4", "dev=16", "test=12")


class Scripted(FakeEngine):
    """A fake whose log-probabilities are those of one made-up model, moved by `shift` a token.

    `opened` and `closed` are shared: which models were in memory, in order.
    """

    log: list[str]

    def __init__(self, model: Model, shift: float, script: Callable[[Request, int], str] | None, log: list[str]):
        super().__init__(replace(model, base="fake"), script)
        self.shift, self.log, self.called = shift, log, model.base
        self.fail_after: int | None = None
        log.append(f"open {model.base}")

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Any]:
        for request, batch in zip(requests, super().sample(requests, sampling), strict=True):
            if self.fail_after == 0:
                raise KeyboardInterrupt
            self.fail_after = None if self.fail_after is None else self.fail_after - 1
            self.log.append(f"draw {self.called} {request.id}")
            yield batch

    def token_logprobs(
        self, requests: Sequence[Request], continuations: Sequence[str], top: int = 0
    ) -> Iterator[list[tuple[str, TokenScores]]]:
        for [(id, scores)] in super().token_logprobs(requests, continuations, 0):
            self.log.append(f"score {self.called} {id} {top}")
            tokens = tuple(TokenScore(t.token, -0.5 + self.shift) for t in scores.tokens)
            yield [(id, TokenScores(tokens))]

    def close(self) -> None:
        self.log.append(f"close {self.called}")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of engines named fake:0.SHIFT: their tokens are so many nats less likely."""
    found: list[str] = []

    def opened(model: Model, config: EngineConfig) -> Engine:
        shift = float(model.base.partition(":")[2] or 0)
        return Scripted(model, -shift, None, found)

    monkeypatch.setattr(asking, "open_engine", opened)
    return found


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(task_args=SIZES, model="fake", split="dev", runs=tmp_path / "runs", quiet=True)


def run_of(setup: Setup) -> RunFolder:
    [path] = [p for p in setup.runs.iterdir() if p.name.startswith("parity-")]
    return RunFolder(path)


def parity(setup: Setup, *words: str, **settings: Any) -> list[Row]:
    return recipes.parity.main(Config(words, setup, **settings))


# --- what is found ----------------------------------------------------------------------------------


def test_systems_that_differ_by_so_much_are_found_to(
    setup: Setup, log: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("fake", "fake,model=fake:0.01", "fake,model=fake:0.3,name=far")
    rows = parity(setup, *words)
    drifts = [row.distance.drift.value for row in rows[1:] if row.distance and row.distance.drift]
    assert drifts == [pytest.approx(0.01), pytest.approx(0.3)]
    assert [str(row.verdict) for row in rows] == [
        "None",
        "same",
        "drifted: mean drift 0.3 > 0.05; KL 0.0497 > 0.005",
    ]
    out = capsys.readouterr().out
    assert "fake,model=fake:0.01: same (same bounds)" in out
    assert "far: drifted: mean drift 0.3 > 0.05" in out
    found = json.loads((run_of(setup).path / "parity.json").read_text())
    assert [s.get("verdict") for s in found["systems"]] == [None, "same", "drifted"]
    assert found["systems"][2]["drift"]["value"] == pytest.approx(0.3)
    assert found["systems"][1]["texts"]["value"] == 1
    assert len(found["systems"][1]["questions"]) == 16
    assert found["bounds"]["same"] == {"drift": 0.05, "kl": 0.005, "points": 3.0}
    assert run_of(setup).state == "done"
    assert "fake:0.3" in (run_of(setup).path / "report.html").read_text(encoding="utf-8") or "far" in out


def test_one_model_is_in_memory_at_a_time(setup: Setup, log: list[str]) -> None:
    parity(setup, "fake", "fake,model=fake:0.01", "fake,model=fake:0.02")
    kept = [line for line in log if line.startswith(("open", "close"))]
    assert kept == [f"{what} {name}" for name in ("fake", "fake:0.01", "fake:0.02") for what in ("open", "close")]


def test_an_engine_is_closed_when_it_fails(setup: Setup, log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Iterator[Any]:
        raise UserError("no more")

    monkeypatch.setattr(Scripted, "token_logprobs", broken)
    with pytest.raises(UserError, match="no more"):
        parity(setup, "fake", "fake,model=fake:0.01")
    assert log[-1] == "close fake"


def test_texts_that_part_are_scored_as_they_are(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(model: Model, config: EngineConfig) -> Engine:
        last = "four" if model.base == "fake" else "five"
        return Scripted(model, 0, lambda request, index: f"one two three {last}", [])

    monkeypatch.setattr(asking, "open_engine", opened)
    _, row = parity(setup, "fake", "fake,model=fake:0.01")
    assert row.distance is not None
    assert (row.distance.texts.value, row.distance.parts_at, row.distance.both) == (0, 3, 16)
    assert row.distance.drift is not None and row.distance.drift.value == 0
    assert row.verdict is not None and row.verdict.state == "same", "drift decides, not the texts"


def test_failed_requests_are_no_disagreement(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(model: Model, config: EngineConfig) -> Engine:
        def script(request: Request, index: int) -> str:
            if model.base != "fake" and int(request.id, 16) % 2:
                raise RuntimeError("down")
            return "7"

        return Scripted(model, 0, script, [])

    monkeypatch.setattr(asking, "open_engine", opened)
    first, row = parity(setup, "fake", "fake,model=fake:0.01")
    odd = sum(int(o.id, 16) % 2 for o in first.measured.result.outcomes)
    assert row.distance is not None and 0 < odd < 16
    assert (row.distance.failed, row.distance.both, row.distance.texts.value) == (odd, 16 - odd, 1)
    assert row.distance.scored == 16, "the reference's answers were read all the same"


def test_the_prompt_and_the_length_are_the_task_s(setup: Setup, log: list[str]) -> None:
    first, _ = parity(replace(setup, questions=9), "fake", "fake,model=fake:0.01")
    assert len(first.measured.result.outcomes) == 9 and first.measured.result.split == "dev"
    assert Config(("a",)).setup.split == "dev", "test is never the default"


def test_looks_at_test_are_counted(setup: Setup, log: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = parity(replace(setup, split="test"), "fake", "fake,model=fake:0.01")
    with Store(setup.runs / "completions.sqlite") as store:
        assert store.looks(first.measured.result.task_hash, "test") == 2
    assert "2 systems have been looked at on the test split" in capsys.readouterr().out


def test_numbers_that_are_none_are_failures(setup: Setup, log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(self: Scripted, requests: Sequence[Request], texts: Sequence[str], top: int = 0) -> Iterator[Any]:
        for i, (request, text) in enumerate(zip(requests, texts, strict=True)):
            wrong = [float("nan"), float("-inf")][i] if i < 2 and self.called != "fake" else -1.0
            top_ = ((1, -0.5), (2, float("-inf")))
            yield [(request.id, TokenScores(tuple(TokenScore(1, wrong, top_) for _ in text.split())))]

    monkeypatch.setattr(Scripted, "token_logprobs", odd)
    _, row = parity(setup, "fake", "fake,model=fake:0.01")
    assert row.distance is not None
    assert row.distance.left_out == (("scoring failed", 2),) and row.distance.scored == 14


# --- strict, bounds ---------------------------------------------------------------------------------


def test_strict_fails_at_the_end_and_asks_nothing_again(setup: Setup, log: list[str]) -> None:
    words = ("fake", "fake,model=fake:0.3")
    parity(setup, *words)
    asked = [line for line in log if line.startswith(("draw", "score"))]
    with pytest.raises(
        UserError, match=r"Not the same as fake: fake,model=fake:0\.3 drifted: mean drift 0\.3 > 0"
    ):
        parity(setup, *words, strict=True)
    assert run_of(setup).state == "done", "it is what was found that fails"
    assert [line for line in log if line.startswith(("draw", "score"))] == asked
    parity(setup, "fake", "fake,model=fake:0.01", strict=True)


def test_strict_fails_where_it_is_undecided(setup: Setup, log: list[str]) -> None:
    with pytest.raises(UserError, match="undecided: 4 questions were scored, 8 are needed"):
        parity(replace(setup, questions=4), "fake", "fake,model=fake:0.01", strict=True)


def test_bounds_can_be_stated(setup: Setup, log: list[str]) -> None:
    wide = BothBounds(same=Bounds(1, 1, 1))
    _, row = parity(setup, "fake", "fake,model=fake:0.3", bounds=wide)
    assert str(row.verdict) == "same"


# --- going on ---------------------------------------------------------------------------------------


def test_a_stopped_run_asks_only_for_what_is_missing(
    setup: Setup, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("fake", "fake,model=fake:0.3")
    original = Scripted.token_logprobs

    def stopped(self: Scripted, requests: Sequence[Request], texts: Sequence[str], top: int = 0) -> Iterator[Any]:
        for i, batch in enumerate(original(self, requests, texts, top)):
            if i == 5 and self.called == "fake:0.3":
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(Scripted, "token_logprobs", stopped)
    with pytest.raises(KeyboardInterrupt):
        parity(setup, *words)
    assert run_of(setup).state == "interrupted"
    files = sorted(run_of(setup).path.glob("scores-*.jsonl"))
    assert sorted(file.read_bytes().count(b"\n") for file in files) == [5, 16]
    torn = next(file for file in files if file.read_bytes().count(b"\n") == 5)
    torn.write_bytes(torn.read_bytes()[:-10])  # as a kill leaves it
    monkeypatch.setattr(Scripted, "token_logprobs", original)
    del log[:]
    _, row = parity(setup, *words)
    assert [line for line in log if line.startswith("draw")] == []
    assert len([line for line in log if line.startswith("score")]) == 12
    assert row.distance is not None and row.distance.scored == 16
    assert row.distance.drift is not None and row.distance.drift.value == pytest.approx(0.3)


def test_a_damaged_line_is_named(setup: Setup, log: list[str]) -> None:
    parity(setup, "fake", "fake,model=fake:0.3")
    file = next(run_of(setup).path.glob("scores-*.jsonl"))
    file.write_bytes(b"[1]\n" + file.read_bytes())
    with pytest.raises(UserError, match=r"scores-.*\.jsonl is damaged in line 1"):
        parity(setup, "fake", "fake,model=fake:0.3")


class Server(Scripted):
    """Stands for a server: its answers may change from one day to the next."""

    version = "vllm 1, somewhere"
    word = "7"

    def __init__(self, model: Model, log: list[str]) -> None:
        super().__init__(model, 0, lambda request, index: Server.word, log)


def test_a_server_is_asked_again_after_a_finished_run_and_not_within_one(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []

    def opened(model: Model, config: EngineConfig) -> Engine:
        return Server(model, log) if config.engine == "vllm" else Scripted(model, 0, lambda r, i: "7", log)

    monkeypatch.setattr(asking, "open_engine", opened)
    words = ("fake", "vllm,endpoint=http://127.0.0.1:8150,model=served")
    monkeypatch.setattr(asking, "datetime", _Clock)
    assert [str(r.verdict) for r in parity(setup, *words)] == ["None", "same"]
    assert log[:2] == ["open served", "close served"], "a server that is not there is said first"
    del log[:]
    monkeypatch.setattr(Server, "word", "8")
    _, row = parity(setup, *words)
    assert row.distance is not None and row.distance.texts.value == 0, "its old answers count no more"
    assert len([line for line in log if line.startswith("draw served")]) == 16
    assert [line for line in log if line.startswith("draw fake")] == []

    original = Scripted.token_logprobs

    def stopped(self: Scripted, *rest: Any) -> Iterator[Any]:
        if self.called == "served":
            raise KeyboardInterrupt
        return original(self, *rest)

    monkeypatch.setattr(Scripted, "token_logprobs", stopped)
    with pytest.raises(KeyboardInterrupt):
        parity(setup, *words)
    monkeypatch.setattr(Scripted, "token_logprobs", original)
    del log[:]
    parity(setup, *words)
    assert [line for line in log if line.startswith("draw")] == [], "an interrupted visit goes on"


@pytest.fixture
def servers() -> Iterator[tuple[StubServer, StubServer]]:
    """Two servers of one model, the second of which says something else."""

    def other(handler: Any, body: dict[str, Any]) -> None:
        answer = good_answer(handler.path, body)
        for choice in answer.get("choices", []):
            if "message" in choice:
                choice["message"]["content"] = "another answer: 9"
            if body.get("echo"):
                told = choice["logprobs"]
                told["token_logprobs"] = [None, *(score - 2 for score in told["token_logprobs"][1:])]
        handler.reply(200, answer)

    both = StubServer(("served",)), StubServer(("served",))
    both[1].always = other
    yield both
    for server in both:
        server.die()


def test_servers_of_one_name_are_each_asked(setup: Setup, servers: tuple[StubServer, StubServer]) -> None:
    words = [f"vllm,endpoint={server.url}" for server in servers]
    _, row = parity(replace(setup, model="served"), *words)
    assert row.verdict is not None and row.verdict.state == "drifted"
    assert row.distance is not None and row.distance.texts.value == 0
    assert {o.text for o in row.measured.result.outcomes} == {"another answer: 9"}
    for server in servers:
        assert {path for _, path, _ in server.calls} == {"/v1/chat/completions", "/tokenize", "/v1/completions"}


def test_a_server_s_words_are_shown_and_not_obeyed(
    setup: Setup, servers: tuple[StubServer, StubServer], capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(handler: Any, body: dict[str, Any]) -> None:
        if len(servers[0].calls) % 3:
            handler.reply(200, good_answer(handler.path, body))
        else:
            handler.reply(400, {"error": {"message": "\x1b[2J<script>no"}})

    servers[0].always = refuses
    parity(replace(setup, model="served"), f"vllm,endpoint={servers[0].url}", "fake,name=\x1b]0;x")
    out = capsys.readouterr().out
    assert "\x1b" not in out and "⟨U+001B⟩]0;x" in out
    page = (run_of(setup).path / "report.html").read_text(encoding="utf-8")
    assert "\x1b" not in page and "<script" not in page


def test_a_server_against_itself_is_refused(setup: Setup, servers: tuple[StubServer, StubServer]) -> None:
    url = servers[0].url
    words = (f"vllm,endpoint={url},name=a", f"vllm,endpoint={url}/v1,name=b")
    with pytest.raises(UserError, match=f"'a' and 'b' are the same system .*at {url}, asked"):
        parity(replace(setup, model="served"), *words)
    assert servers[0].calls == [], "nothing was asked"


def test_a_model_against_itself_is_refused(tiny: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    setup = replace(tiny, questions=2, engine=EngineConfig(dtype="float32"))
    with pytest.raises(UserError, match=r"'hf' and 'hf,device=cpu' are the same system .*float32 cpu"):
        parity(setup, "hf", "hf,device=cpu")


class _Clock:
    """A clock that moves a second each time it is looked at."""

    seconds = 0

    @classmethod
    def now(cls, zone: Any) -> Any:
        from datetime import datetime

        cls.seconds += 1
        return datetime(2026, 1, 1, 0, cls.seconds // 60, cls.seconds % 60, tzinfo=zone)


def test_a_completion_of_a_visit_keeps_all_but_its_seconds() -> None:
    engine = asking.Visited(Server(Model("x"), []), ["http://b:1/v1/", "http://a:1"], "today")
    [[(_, found)]] = engine.sample([Request("q", ())], Sampling(temperature=0))
    assert engine.version == "vllm 1, somewhere, at http://a:1 and http://b:1, asked from today"
    assert replace(found, seconds=0) == Completion(
        0, "7", completion_tokens=1, logprob=found.logprob, finish=Finish.STOP
    )
    assert engine.count_tokens([]) == []


def test_a_server_scores_one_answer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    original = Scripted.token_logprobs

    def counted(self: Scripted, requests: Sequence[Request], *rest: Any) -> Iterator[Any]:
        sizes.append(len(requests))
        return original(self, requests, *rest)

    monkeypatch.setattr(Scripted, "token_logprobs", counted)
    engine = asking.Visited(Server(Model("x"), []), ["http://a:1"], "today")
    found = list(engine.token_logprobs([Request("a", ()), Request("b", ())], ["one two", "three"], 20))
    assert [id for [(id, _)] in found] == ["a", "b"] and sizes == [1, 1]


# --- a real model -----------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path, tiny_model: Path) -> Setup:
    engine = EngineConfig(device="cpu", dtype="float32")
    return Setup(
        task_args=SIZES, model=str(tiny_model), split="dev", engine=engine, runs=tmp_path / "runs", quiet=True
    )


def test_a_copy_is_the_same_and_rounding_moves_it(tiny: Setup, tiny_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in tiny_model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 500}))  # another identity
    rows = parity(
        replace(tiny, questions=10), "hf", f"hf,model={copy},name=copy", "hf,dtype=bfloat16", "hf,quantization=nf4"
    )
    found = [row.distance for row in rows[1:]]
    assert all(d is not None and d.drift is not None and d.kl is not None for d in found)
    copied, half, rounded = [(d.drift.value, d.kl.value, d.texts.value) for d in found if d and d.drift and d.kl]
    assert copied == (0, 0, 1) and str(rows[1].verdict) == "same"
    assert 0 < half[0] < rounded[0] and 0 < half[1] < rounded[1]
    assert [row.side.bounds for row in rows[1:]] == ["same", "same", "quantised"]


def test_drift_is_the_difference_of_two_forward_passes(tiny: Setup) -> None:
    """The worked number: both log-probabilities by hand, from transformers' own logits."""
    import torch
    from transformers import AutoModelForCausalLM

    from workbench.engines.hf import HfEngine
    from workbench.harness import questions_of
    from workbench.prompts import load_prompt, render
    from workbench.tasks import load_task

    first, other = parity(replace(tiny, questions=8), "hf", "hf,dtype=bfloat16")
    task = load_task("arithmetic", dict(arg.split("=") for arg in SIZES))
    example = questions_of(task, "dev", 1)[0]
    question = next(q for q in other.distance.questions if q.id == example.id)  # type: ignore[union-attr]
    encoder = HfEngine(Model(tiny.model), dtype="float32", device="cpu").encoder
    request = Request(example.id, render(load_prompt(task.prompt), example))
    prompt, answer, _ = encoder.encode_pair(request, question.reference or "")
    expected = []
    for dtype in (torch.float32, torch.bfloat16):
        weights = AutoModelForCausalLM.from_pretrained(tiny.model, dtype=dtype).eval()
        with torch.inference_mode():
            logits = weights(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].float()
        expected.append(logits.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None])[:, 0])
    assert question.deltas == pytest.approx((expected[1] - expected[0]).tolist(), abs=0.05)
    assert first.measured.scores[example.id].tokens[0].logprob == pytest.approx(expected[0][0].item(), abs=1e-4)
