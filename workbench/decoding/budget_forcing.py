"""Budget forcing (s1, Muennighoff et al. 2025, arXiv 2501.19393, §3.1): thinking of at least and at most so long.

An end of thinking that comes too early is left out and "Wait" put in its place; at the limit thinking is cut off
and the answer is forced. Where it departs from the paper: the tokens of `wait` and of the forced words are read
and not generated, so they do not count as thinking; thinking may be that of a step-by-step prompt, which ends at
the answer's marker or with the text; and a text that ends without the marker is taken as the answer where
`final` is empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from workbench.decodes import Sampling
from workbench.decoding.steps import Stages, Stepped, Want, continued, cut_at, failure
from workbench.step_decodes import BudgetForcing
from workbench.types import Completion, Finish


@dataclass
class Thought:
    """One question's answer in the making.

    Attributes:
        text: of the whole answer so far.
        segments: tokens of thinking that each stage generated.
        waits: how often it was made to go on.
        forced: whether the answer was.
        last: the completion of the last stage.
        done: whether nothing is left to ask.
    """

    text: str
    segments: list[int] = field(default_factory=list)
    waits: int = 0
    forced: bool = False
    last: Completion | None = None
    done: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of thinking."""
        return sum(self.segments)


def force_budget(decode: BudgetForcing, stages: Stages) -> Stepped:
    """Think within the budget, then answer, for all questions together.

    Raises:
        UserError: as `Stages.ask`.
    """
    thoughts = {id: Thought(decode.begin) for id in stages.requests}
    thinking, stage = list(thoughts), 0
    while thinking:
        _think(decode, stages, {id: thoughts[id] for id in thinking}, f"think-{stage}")
        thinking = [id for id in thinking if not thoughts[id].done]
        stage += 1
        stages.tell(sum(t.done and _is_whole(t) for t in thoughts.values()))
    answering = [id for id, thought in thoughts.items() if not _is_whole(thought)]
    limit = _sampling(decode, decode.longest, stages.system.prompt.stop)
    wants = [Want(id, continued(stages.requests[id].messages, thoughts[id].text)) for id in answering]
    for id, found in zip(answering, stages.ask(wants, limit, "answer"), strict=True):
        last = failure(found, 1) or found[0]
        thoughts[id].last, thoughts[id].text = last, thoughts[id].text + last.text
    stages.tell(len(thoughts))
    completions = {}
    for id, thought in thoughts.items():
        assert thought.last is not None
        completions[id] = stages.answer(id, thought.last, thought.text)
    kept = [t for t in thoughts.values() if t.last and t.last.finish is not Finish.ERROR]
    metrics = {
        "forced_questions": sum(t.forced for t in kept),
        "extended_questions": sum(t.waits > 0 for t in kept),
        "waits": sum(t.waits for t in kept),
        "short_questions": sum(t.tokens < decode.at_least for t in kept),
        "thinking_tokens": sum(t.tokens for t in kept) / max(1, len(kept)),
    }
    note = (
        f"Of {len(kept)} questions the answer was forced in {metrics['forced_questions']}, and thinking was made "
        f"to go on in {metrics['extended_questions']}, {metrics['waits']} times; a question has "
        f"{metrics['thinking_tokens']:.1f} tokens of thinking on average."
    )
    if metrics["short_questions"]:
        note += f" {metrics['short_questions']} have fewer than {decode.at_least}: waits is {decode.waits}."
    return stages.result(completions, metrics, notes=[note] if kept else [])


def _think(decode: BudgetForcing, stages: Stages, thoughts: dict[str, Thought], stage: str) -> None:
    """One stage of thinking, of at most what is left; afterwards each goes on, answers, or is whole."""
    stop = stages.system.prompt.stop
    sampling = _sampling(decode, decode.at_most, (decode.end, *stop), keep=True)
    wants = [
        Want(id, continued(stages.requests[id].messages, thought.text), max_tokens=decode.at_most - thought.tokens)
        for id, thought in thoughts.items()
    ]
    for want, found in zip(wants, stages.ask(wants, sampling, stage), strict=True):
        thought, last = thoughts[want.question], failure(found, 1) or found[0]
        thought.last = last
        thought.done = True
        if last.finish is Finish.ERROR:
            continue
        thought.segments.append(last.completion_tokens)
        said = last.text.removesuffix(decode.end)
        ended = said != last.text
        stopped = None if ended else cut_at(last.text, stop)
        thought.text += said if stopped is None else stopped
        if last.finish is Finish.LENGTH:
            if thought.tokens >= decode.at_most:  # else the context is full, and has no room for an answer either
                _force(decode, thought)
        elif thought.tokens < decode.at_least and thought.waits < decode.waits:
            thought.text, thought.waits = thought.text.rstrip() + decode.wait, thought.waits + 1
            thought.done = False
        elif ended:
            thought.text, thought.last = thought.text + decode.end, None
        elif decode.final:  # it stopped within its thinking, and the answer is still to come
            _force(decode, thought)


def _force(decode: BudgetForcing, thought: Thought) -> None:
    thought.text = f"{thought.text.rstrip()}\n{decode.end}{decode.final}"
    thought.forced, thought.last = True, None


def _is_whole(thought: Thought) -> bool:
    """Whether the last stage's completion ended the answer: nothing is to be asked behind it."""
    return thought.last is not None


def _sampling(decode: BudgetForcing, limit: int, stop: Sequence[str], keep: bool = False) -> Sampling:
    how = (decode.temperature, decode.top_p, decode.top_k)
    return Sampling(*how, limit, tuple(stop), decode.seed, keep_stop=keep)
