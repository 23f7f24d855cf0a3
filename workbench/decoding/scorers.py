"""What says how good each of a question's samples is, by the scorer's name: a score a sample, and what it cost.

- `verifier`: the task's own grade, 1 or 0. It knows the answer: an oracle, and so the ceiling of every choice.
- `logprob`: the mean log-probability a token, of what was drawn; nothing is computed anew.
- `self-certainty`: how far from uniform the model's distributions were (Kang et al. 2025, arXiv 2502.18581).
- `judge`: P(True) (Kadavath et al. 2022, arXiv 2207.05221): the model's own probability that it calls the answer
  true, out of its probabilities of the words True and False. Departure: one answer is shown, and no other samples.
- any other is the folder of a reward model.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from workbench.cost import ModelShape
from workbench.decodes import BestOfN
from workbench.decoding.ask import as_continuations
from workbench.decoding.best_of_n import Scorer, reward, rewards
from workbench.decoding.choosing import Graded
from workbench.decoding.labels import first_of_two
from workbench.engines.base import Engine
from workbench.errors import UserError
from workbench.identity import folder_hash, model_identity, short_hash
from workbench.prompts import load_prompt, render
from workbench.store import Store
from workbench.types import Completion, Example, Finish, Request, Status, System

VERDICTS = ("True", "False")
JUDGE_PROMPT = "judge-answer"


@dataclass(frozen=True)
class Scores:
    """What a scorer made of the samples.

    Attributes:
        values: by question; −∞ of a sample that cannot be chosen, NaN of one that could not be scored.
        rated: by question what was computed for it; None of a sample that cannot be chosen.
        shape: of the model that scored; None where it cannot be known.
    """

    values: Mapping[str, Sequence[float]] = field(default_factory=dict)
    rated: Mapping[str, Sequence[Completion | None]] = field(default_factory=dict)
    shape: ModelShape | None = None

    @property
    def failed(self) -> list[Completion]:
        """What could not be scored, once for all samples that have the same text."""
        rated = {id(c): c for row in self.rated.values() for c in row if c is not None}
        return [c for c in rated.values() if c.finish is Finish.ERROR]


def open_own(system: System, engine: Engine, reward_model: Scorer | None) -> Scorer | None:
    """What computes the scores that a System's decode asks for; None where nothing has to be computed.

    Args:
        system: its decode may name a scorer.
        engine: the System's model, ready.
        reward_model: what the decode's folder holds, ready; None where it names no folder.

    Raises:
        UserError: the engine cannot score so, or the reward model is not at hand.
    """
    decode = system.decode
    if not isinstance(decode, BestOfN) or decode.scorer in ("verifier", "logprob"):
        return None
    if decode.scorer == "judge":
        return Judge(engine)
    if decode.scorer == "self-certainty":
        return SelfCertainty(engine)
    if reward_model is None:
        raise UserError("A reward model does not choose here; it does in `workbench best_of_n` and `evaluate`.")
    return reward_model


def scored(
    system: System,
    requests: Sequence[Request],
    drawn: Mapping[str, Sequence[Completion]],
    grades: Sequence[Sequence[Graded]],
    engine: Engine,
    reward_model: Scorer | None,
    store: Store,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """The scores of a System's samples; none where its decode names no scorer.

    Args:
        system: its decode names the scorer.
        requests: the questions as they were asked.
        drawn: their samples.
        grades: of the samples, in the requests' order.
        engine, reward_model: as of `open_own`.
        store: scores that were computed are kept there; failed ones are asked for again.
        progress: called with (done, total) after every batch.

    Raises:
        UserError: as `open_own`, or a server died; what was scored is stored.
    """
    decode = system.decode
    if not isinstance(decode, BestOfN):
        return Scores()
    scorer = open_own(system, engine, reward_model)
    if scorer is None:
        value = _grade if decode.scorer == "verifier" else _mean_logprob
        rows = zip(requests, grades, strict=True)
        return Scores({r.id: [value(*pair) for pair in zip(row, drawn[r.id], strict=True)] for r, row in rows})
    key: dict[str, Any]
    if isinstance(scorer, (Judge, SelfCertainty)):
        key = {"model": model_identity(system.model), "how": decode.scorer}
        if isinstance(scorer, Judge):
            key["prompt"] = short_hash(scorer.prompt)
    else:
        key = {"scorer": folder_hash(decode.scorer), "how": "reward"}
    rated = rewards({**key, "engine": scorer.version}, requests, drawn, scorer, store, progress)
    return Scores({id: [reward(c) for c in row] for id, row in rated.items()}, rated, scorer.shape)


def _grade(graded: Graded, completion: Completion) -> float:
    return float(graded[0] is Status.CORRECT) if completion.finish is Finish.STOP else -math.inf


def _mean_logprob(graded: Graded, completion: Completion) -> float:
    """Of a whole sample; one without a token has no mean, and cannot be chosen."""
    if completion.finish is not Finish.STOP or not completion.completion_tokens:
        return -math.inf
    if completion.logprob is None or not math.isfinite(completion.logprob):
        return math.nan
    return completion.logprob / completion.completion_tokens


class SelfCertainty:
    """How sure the model was along each answer: the mean over its tokens of KL(uniform ‖ p), nats.

    Args:
        engine: the model's.

    Raises:
        UserError: the engine does not see whole distributions.
    """

    def __init__(self, engine: Engine) -> None:
        self._certainty = getattr(engine, "self_certainty", None)
        if self._certainty is None:
            raise UserError(
                "Self-certainty needs the probability of every token of the vocabulary at every place, and this "
                "engine tells those of a few tokens at most. Use --engine hf, or --scorer logprob."
            )
        self.version, self.shape = engine.version, engine.shape

    def rewards(self, asked: Sequence[tuple[Request, str]]) -> Iterator[list[tuple[int, Completion]]]:
        """The self-certainties of answers; one without text has 0, the least that there is."""
        assert self._certainty is not None
        nothing = Completion(0, "", logprob=0.0, finish=Finish.SCORED)
        if empty := [(place, nothing) for place, (_, text) in enumerate(asked) if not text]:
            yield empty
        work = [(replace(request, id=str(place)), text) for place, (request, text) in enumerate(asked) if text]
        if work:
            requests, texts = zip(*work, strict=True)
            for batch in self._certainty(requests, texts):
                yield [(int(place), c) for place, c in batch]

    def close(self) -> None:
        """Nothing: the engine is the caller's."""


class Judge:
    """The model asked whether each answer is true.

    The question is the conversation's last turn of the user, and the answer what follows it. A prompt of the style
    `text` is judged in that style too, because a base model knows no other.

    Args:
        engine: the model's.
        prompt: a prompt's name or file; its variable `answer` is what is judged.

    Raises:
        UserError: there is no such prompt.
    """

    def __init__(self, engine: Engine, prompt: str = JUDGE_PROMPT) -> None:
        self._engine, self.prompt = engine, load_prompt(prompt)
        self.version, self.shape = engine.version, engine.shape

    def rewards(self, asked: Sequence[tuple[Request, str]]) -> Iterator[list[tuple[int, Completion]]]:
        """The probabilities that answers are called true.

        A judge's prompt holds the answer, so that all of its tokens are read for this answer: they are counted as
        the completion's.
        """
        requests = [self._request(str(place), *one) for place, one in enumerate(asked)]
        found: dict[str, list[Completion]] = {}
        verdicts = [as_continuations(request, VERDICTS) for request in requests]
        for batch in self._engine.logprobs(requests, verdicts):
            whole = []
            for name, completion in batch:
                both = found.setdefault(name, [])
                both.append(completion)
                if len(both) == len(VERDICTS):
                    whole.append((int(name), _verdict(asked[int(name)][1], found.pop(name))))
            if whole:
                yield whole

    def _request(self, id: str, request: Request, text: str) -> Request:
        last = max((i for i, m in enumerate(request.messages) if m.role == "user"), default=-1)
        question = request.messages[last].content if last >= 0 else ""
        answer = "".join(message.content for message in request.messages[last + 1 :]) + text
        example = Example.make(question, "", variables={"answer": answer})
        return Request(id, render(self.prompt, example), style=request.style)

    def close(self) -> None:
        """Nothing: the engine is the caller's."""


def _verdict(text: str, both: Sequence[Completion]) -> Completion:
    """One completion of the two words' scores, whose `logprob` is the probability of the first."""
    p = first_of_two(both)
    bad = next((c.error for c in both if c.finish is Finish.ERROR), "the words' scores are no numbers")
    return Completion(
        index=0,
        text=text,
        completion_tokens=max(c.prompt_tokens for c in both) + sum(c.completion_tokens for c in both),
        logprob=p,
        seconds=sum(c.seconds for c in both),
        finish=Finish.ERROR if p is None else Finish.SCORED,
        error=bad if p is None else None,
    )
