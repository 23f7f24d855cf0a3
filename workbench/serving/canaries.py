"""Canaries: short prompts asked at every start and after every reload, to see that the server computes the model.

Every served name draws a greedy answer to each prompt of canaries.txt, all names and prompts at once, as users do.
The same tokens are then scored again: by the server, as a prompt, and by the same model in transformers, on the
CPU (the reference). What breaks shows as a difference:

- prefill: the server's scores of the answer as a prompt, against the reference's;
- decode: what the server said of each token as it drew it, against the reference's score;
- self: what it said as it drew, against its own scores of the same tokens as a prompt;
- greedy: how much likelier the reference's best token was than the one that was drawn;
- tokens: prompts that the server's chat template and tokenizer read otherwise than ours.

All but the last are nats a token, averaged over one answer, of the worst prompt. Without a reference only `self`
and `tokens` are left; of a soft prompt, which no server scores as a prompt, `decode` and `greedy`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

from workbench.server_state import Canary
from workbench.serving.asking import Asked, Drawn, Ids, Refusal, Server
from workbench.types import Message, Request

if TYPE_CHECKING:
    from workbench.engines.encode import Encoder

T = TypeVar("T")
Rows = list[list[float]]
"""One value a token, of each answer."""

Score = Callable[[str, Sequence[Ids], Sequence[Ids]], tuple[Rows, Rows]]
"""(served name, prompts, answers) to (each token's log-probability, that of the likeliest token in its place)."""

# Seen with SmolLM2-135M in bfloat16 and vLLM 0.32 on a CPU, over the base and two LoRAs: prefill and decode .048
# at most, self 0, greedy .011, eager and compiled alike; in float32 all of them below .0001.
BOUNDS = {"prefill": 0.15, "decode": 0.15, "self": 0.1, "greedy": 0.1}

QUANTIZED = {"prefill": 1.5, "decode": 1.5, "self": 0.1, "greedy": 1.0}
"""Where the reference is the dense model that the served one was quantised from: only a broken one is caught."""

_PROMPTS = Path(__file__).with_name("canaries.txt")


def look(
    server: Server,
    encoder: "Encoder",
    asked: Sequence[Asked],
    score: Score | None,
    bounds: Mapping[str, float],
) -> list[Canary]:
    """What every check sees of every name.

    Args:
        server: which is up.
        encoder: of the base.
        asked: the names, the base first.
        score: the reference's; None where there is none.
        bounds: by check, the largest value that is taken for rounding.
    """
    texts = [line for line in _PROMPTS.read_text(encoding="utf-8").splitlines() if line]
    style = "chat" if encoder.has_chat_template else "text"
    prompts = [encoder.encode(Request(text, (Message("user", text),), style=style)) for text in texts]
    drawn = _each(asked, lambda one: server.draw(one, prompts))
    # Only then is it certain that none of them is idle while the others draw.
    echoed = _each(asked, lambda one: _echo(server, one, prompts, drawn[one.name]))
    found = [_tokens(server, asked[0].model, style, texts, prompts)]
    for one in asked:
        answers, own = drawn[one.name], echoed[one.name]
        if isinstance(answers, Refusal) or isinstance(own, Refusal):
            words = str(answers if isinstance(answers, Refusal) else own)
            found.append(Canary(one.name, "answer", math.nan, 0.0, words))
            continue
        rows = _rows(one.name, prompts, answers, own, score)
        found += [
            _worst(one.name, check, left, right, texts, answers, words, bounds[check])
            for check, (left, right, words) in rows.items()
        ]
    return found


def _each(asked: Sequence[Asked], call: Callable[[Asked], T]) -> dict[str, T | Refusal]:
    """What each call gives, all of them at once: a server mixes them in its batches."""

    def safely(one: Asked) -> T | Refusal:
        try:
            return call(one)
        except Refusal as error:
            return error

    with ThreadPoolExecutor(len(asked)) as pool:
        return dict(zip([one.name for one in asked], pool.map(safely, asked), strict=True))


def _echo(server: Server, one: Asked, prompts: list[Ids], drawn: list[Drawn] | Refusal) -> Rows | None:
    if one.embed is not None or isinstance(drawn, Refusal):
        return None
    return server.score(one, prompts, [answer.tokens for answer in drawn])


def _tokens(server: Server, model: str, style: str, texts: list[str], prompts: list[Ids]) -> Canary:
    """How many prompts the server reads otherwise."""
    try:
        other = [t for t, ids in zip(texts, prompts, strict=True) if server.tokenize(model, style, t) != ids]
    except Refusal as error:
        return Canary(model, "tokens", math.nan, 0.0, str(error))
    return Canary(model, "tokens", len(other), 0.0, f"{other[0]!r} has other tokens there" if other else "")


def _rows(
    name: str, prompts: list[Ids], drawn: list[Drawn], own: Rows | None, score: Score | None
) -> dict[str, tuple[Rows, Rows, str]]:
    """By check: the two sides that it compares, and how their means are told."""
    rows: dict[str, tuple[Rows, Rows, str]] = {}
    said = [answer.said for answer in drawn]
    if score is not None:
        scored, best = score(name, prompts, [answer.tokens for answer in drawn])
        if own is not None:
            rows["prefill"] = own, scored, "{:.2f} a token as a prompt, the engine hf says {:.2f}"
        rows["decode"] = said, scored, "{:.2f} a token as it drew, the engine hf says {:.2f}"
        rows["greedy"] = best, scored, "the engine hf's best tokens have {:.2f} each, these {:.2f}"
    if own is not None:
        rows["self"] = said, own, "{:.2f} a token as it drew, {:.2f} for the same tokens as a prompt"
    return rows


def _worst(
    name: str, check: str, left: Rows, right: Rows, texts: list[str], drawn: list[Drawn], words: str, bound: float
) -> Canary:
    """The check on the prompt that differs most."""
    values = [_difference(a, b) for a, b in zip(left, right, strict=True)]
    worst = max(range(len(values)), key=lambda i: math.inf if math.isnan(values[i]) else values[i])
    means = words.format(fmean(left[worst] or [math.nan]), fmean(right[worst] or [math.nan]))
    return Canary(name, check, values[worst], bound, f"{texts[worst]!r} → {drawn[worst].text!r}: {means}")


def _difference(left: list[float], right: list[float]) -> float:
    """Mean absolute difference; NaN where there are none, or not as many on both sides."""
    if len(left) != len(right) or not left:
        return math.nan
    return fmean(abs(a - b) for a, b in zip(left, right, strict=True))
