"""Stepwise decodes behind a real vLLM server on the CPU: what the model goes on with, and what is counted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from interpreters import NEEDS_VLLM

from workbench.decodes import Sampling
from workbench.decoding.steps import continued
from workbench.engines.encode import Encoder
from workbench.engines.vllm import VllmEngine
from workbench.harness import evaluate
from workbench.models import EMBEDDED, load_tokenizer
from workbench.prompts import load_prompt
from workbench.step_decodes import BeamSearch, BudgetForcing, Revision, Stepwise
from workbench.store import Store
from workbench.tasks import load_task
from workbench.types import Finish, Message, Model, Request, System

pytestmark = [*NEEDS_VLLM, pytest.mark.slow]

MODEL = Model(EMBEDDED)
SEARCH = BeamSearch(beams=4, keep=2, step_tokens=8, max_tokens=24, choose="vote")
DECODES: dict[str, tuple[str, Stepwise]] = {
    "beams": ("arithmetic-steps", SEARCH),
    "trees": ("arithmetic-steps", replace(SEARCH, diverse=True, scorer="judge")),
    "revision": ("arithmetic", Revision(rounds=1, critique_tokens=16, max_tokens=16, choose="majority")),
    "section": ("arithmetic", BudgetForcing(at_least=12, at_most=16, max_tokens=12, waits=2)),
    "steps": (
        "arithmetic-steps",
        BudgetForcing(at_least=24, at_most=32, max_tokens=12, begin="", end="The answer is", final=""),
    ),
}


def metric(url: str, name: str) -> float:
    """One of the server's own counters."""
    lines = httpx.get(f"{url}/metrics", timeout=30).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"vllm:{name}{{"))


def test_a_served_model_answers_in_stages(real_vllm: Any, tmp_path: Path) -> None:
    url = real_vllm.up().url
    engine, encoder = VllmEngine(MODEL, [url]), Encoder(load_tokenizer(MODEL))

    # It goes on with the very tokens that the engine hf goes on with, and no further than it may.
    asked = (Message("user", "What is the capital of Japan?"),)
    for text in ("The capital of Japan", "So.\n", "\n", "<think>\nIt is\nWait", "one\n\ntwo."):
        request = Request("q", continued(asked, text), max_tokens=3)
        [[(_, c)]] = engine.sample([request], Sampling(temperature=0, max_tokens=24))
        if not text[0].isspace():  # which would be one token with the line's end before it
            assert c.prompt_tokens == len(encoder.encode(request))
        assert [c.prompt_tokens] == engine.count_tokens([request])
        assert c.error is None and 0 < c.completion_tokens <= 3
        assert not text.startswith("The") or c.text == " is Tokyo."
    kept = Sampling(temperature=0, max_tokens=24, stop=(" is", "never"), keep_stop=True)
    [[(_, c)]] = engine.sample([Request("q", asked)], kept)
    assert (c.text, c.finish) == ("The capital of Japan is", Finish.STOP)

    task = load_task("arithmetic", {"practice": "2", "dev": "2", "test": "3"})
    for name, (prompt, decode) in DECODES.items():
        system = System(MODEL, load_prompt(prompt), decode)
        with Store(tmp_path / f"{name}.sqlite") as store:
            generated, requests = metric(url, "generation_tokens_total"), metric(url, "request_success_total")
            result = evaluate(system, task, engine, store)
            generated = metric(url, "generation_tokens_total") - generated
            assert metric(url, "request_success_total") > requests
            requests = metric(url, "request_success_total")
            assert evaluate(system, task, engine, store) == result, "all of it was stored"
            assert metric(url, "request_success_total") == requests
            rows = [row for n, _, _ in list(store.streams()) for row in store.rows(n)]
        drawn = [c for _, c in rows if c.finish is not Finish.SCORED]
        assert result.total == 3, result.notes
        use = result.cost_to_use
        assert use.completion_tokens * 3 == pytest.approx(sum(c.completion_tokens for c in drawn))
        judged = sum(c.completion_tokens for _, c in rows if c.finish is Finish.SCORED)
        if judged:
            assert use.prompt_tokens * 3 > judged
        else:
            assert use.completion_tokens * 3 == pytest.approx(generated), "as the server counted"
        metrics = dict(result.metrics)
        if isinstance(decode, BeamSearch):
            assert metrics["steps"] > 1
            assert all(c.completion_tokens <= 8 for c in drawn)
        if isinstance(decode, BudgetForcing):
            assert metrics["thinking_tokens"] <= decode.at_most
            assert metrics["forced_questions"] + metrics["extended_questions"] > 0
            assert all(decode.end in o.text for o in result.outcomes)
            assert name == "steps" or all(o.text.startswith("<think>\n") for o in result.outcomes)
