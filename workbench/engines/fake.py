"""An engine without weights: scripted answers, or answers made up from the prompt's text alone.

It ships as an ordinary engine, so that every recipe can be tried in a second. Arithmetic in the prompt is
worked out, and the right result is given with a stated probability; anything else is answered with a word of
the prompt. All of it comes from hashes: the same request gives the same answer on every machine.
"""

import ast
import hashlib
import math
import operator
import random
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from workbench.cost import ModelShape
from workbench.decodes import Sampling
from workbench.engines.base import Batch, Piece, TokenScore, TokenScores, check_top, sample_seed
from workbench.errors import UserError, check_range
from workbench.types import Completion, Finish, Model, Request

ACCURACY = 0.5
"""How often `Model("fake")` is right; `Model("fake:0.8")` is right four times in five."""

WIDTH = 64
"""The width of `embed`."""

VOCABULARY = 2**31
"""Ids that a word may have."""

NUMBER = r"\(*-?\d+(?:\.\d+)?\)*"
EXPRESSION = re.compile(rf"{NUMBER}(?:\s*[-+*/×÷]\s*{NUMBER})+")
OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class FakeEngine:
    """Answers from a script, or made up from the prompt.

    Args:
        model: `fake`, or `fake:ACCURACY` with the probability that an arithmetic answer is right.
        script: `script(request, index)` is the text of that sample. Where it raises, that sample is a
            completion that finished with `error`, as a failed request is with a real engine.

    Raises:
        UserError: the accuracy is not a number in [0, 1].
    """

    version = "fake 1"
    context: int | None = None  # as long as you like; a test may set it
    shape = ModelShape(parameters=1_000_000, layers=2, hidden=64, heads=4, kv_heads=4, head_dim=16)

    def __init__(self, model: Model, script: Callable[[Request, int], str] | None = None) -> None:
        self._name = f"{model.base}|{model.adapter}"
        self._accuracy = _accuracy(model.base)
        self._script = script

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        """Words of each request's prompt."""
        return [len(_prompt(request).split()) for request in requests]

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Batch]:
        """Draw every index of every request; a batch is one request. A token is a word."""
        for request in requests:
            yield [(request.id, self._completion(request, index, sampling)) for index in request.indices]

    def logprobs(self, requests: Sequence[Request], continuations: Sequence[Sequence[str]]) -> Iterator[Batch]:
        """Made-up log-probabilities of each continuation, between -3 and 0 a word."""
        for request, texts in zip(requests, continuations, strict=True):
            prompt = _prompt(request)
            prompt_tokens = len(prompt.split())
            yield [
                (
                    request.id,
                    Completion(
                        index=index,
                        text=text,
                        prompt_tokens=prompt_tokens,
                        completion_tokens=max(1, len(text.split())),
                        logprob=self._logprob(prompt, text),
                        finish=Finish.SCORED,
                    ),
                )
                for index, text in enumerate(texts)
            ]

    def token_logprobs(
        self, requests: Sequence[Request], continuations: Sequence[str], top: int = 0
    ) -> Iterator[list[tuple[str, TokenScores]]]:
        """Made-up log-probabilities of each word; a token's id is its word's hash."""
        check_top(top)
        for request, text in zip(requests, continuations, strict=True):
            words = text.split() or [text]
            scores = zip(words, self._word_logprobs(_prompt(request), text), strict=True)
            told = (self._token_score(f"{request.id}|{i}|{text}", *pair, top) for i, pair in enumerate(scores))
            yield [(request.id, TokenScores(tuple(told)))]

    def detokenize(self, groups: Sequence[Sequence[int]]) -> list[str]:
        """Not here.

        Raises:
            UserError: always; what stands beside a word is made up, and has no text.
        """
        raise UserError("The fake engine makes its probabilities up, and its alternatives are no words.")

    def stream(self, request: Request, sampling: Sampling) -> Iterator[str | Completion]:
        """The sample's words, one by one, each with the blanks before it."""
        completion = self._completion(request, request.indices[0], sampling)
        for count, word in enumerate(re.findall(r"\s*\S+|\s+", completion.text), start=1):
            yield Piece(word, min(count, completion.completion_tokens))
        yield completion

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Hashed bags of words, shape [len(texts), 64], unit length; texts that share words are near."""
        vectors = np.zeros((len(texts), WIDTH), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()) or [""]:
                vectors[row, _hash(word) % WIDTH] += 1.0
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def close(self) -> None:
        """Nothing to free."""

    def _completion(self, request: Request, index: int, sampling: Sampling) -> Completion:
        prompt = _prompt(request)
        prompt_tokens = len(prompt.split())
        try:
            text = self._script(request, index) if self._script else self._answer(request, index, sampling)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            return Completion(index, "", prompt_tokens, finish=Finish.ERROR, error=reason)
        ends = [(text.find(stop), -len(stop)) for stop in sampling.stop if stop in text]
        if ends:
            at, length = min(ends)
            text = text[: at - length if sampling.keep_stop else at]
        words = [match.end() for match in re.finditer(r"\S+", text)]
        most, finish = sampling.limit(request.max_tokens), Finish.STOP
        if len(words) > most:
            text, finish = text[: words[most - 1]], Finish.LENGTH
        return Completion(
            index=index,
            text=text,
            prompt_tokens=prompt_tokens,
            completion_tokens=min(len(words), most),
            logprob=self._logprob(prompt, text),
            finish=finish,
        )

    def _answer(self, request: Request, index: int, sampling: Sampling) -> str:
        prompt = _prompt(request)
        seed = sample_seed(sampling.seed, request.id, index) if sampling.temperature > 0 else 0
        draw = random.Random(_hash(f"{self._name}|{prompt}|{seed}"))
        result = _last_result(_question(request))
        if result is None:
            words = re.findall(r"[^\W\d_]+", prompt) or ["unknown"]
            return f"The answer is {draw.choice(words)}."
        if draw.random() >= self._accuracy:
            result += draw.choice([-10, -2, -1, 1, 2, 10])
        return f"The answer is {result if result.denominator == 1 else float(result)}."

    def _logprob(self, prompt: str, text: str) -> float:
        return math.fsum(self._word_logprobs(prompt, text))

    def _word_logprobs(self, prompt: str, text: str) -> list[float]:
        draw = random.Random(_hash(f"{self._name}|{prompt}|{text}"))
        return [-3.0 * draw.random() for _ in text.split() or [text]]

    @staticmethod
    def _token_score(place: str, word: str, logprob: float, top: int) -> TokenScore:
        """The word, and what is most likely beside it: half of the probability that it leaves, a quarter, …"""
        rest = max(-math.expm1(logprob), 1e-300)
        others = [(_hash(f"{place}|{k}") % VOCABULARY, math.log(rest / 2**k)) for k in range(1, top + 1)]
        token = _hash(word) % VOCABULARY
        ranked = sorted([(token, logprob), *others], key=lambda pair: -pair[1])
        return TokenScore(token, logprob, tuple(ranked[:top]))


def _accuracy(base: str) -> float:
    family, colon, value = base.partition(":")
    if family != "fake" or not colon:
        return ACCURACY
    try:
        accuracy = float(value)
    except ValueError:
        raise UserError(f"{base!r} is no fake model. Write fake, or fake:0.6 for one right in 60 %.") from None
    check_range("the accuracy in fake:ACCURACY", accuracy, 0, 1)
    return accuracy


def _prompt(request: Request) -> str:
    return "\n".join(message.content for message in request.messages)


def _question(request: Request) -> str:
    """The last user turn of a chat; a text prompt is one piece, and its question comes last in it."""
    users = [message.content for message in request.messages if message.role == "user"]
    return users[-1] if users and request.style == "chat" else _prompt(request)


def _last_result(text: str) -> Fraction | None:
    """The value of the last arithmetic expression in a text, or None where there is none."""
    for match in reversed(list(EXPRESSION.finditer(text))):
        expression = match.group().replace("×", "*").replace("÷", "/")
        try:
            return _value(ast.parse(expression, mode="eval").body)
        except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
            continue
    return None


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.BinOp):
        return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(str(node.value))
    raise ValueError(ast.dump(node))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
