"""Critique and revise, k rounds (Self-Refine, Madaan et al. 2023, arXiv 2303.17651, §2), every token counted.

Where it departs from the paper: prompts without exemplars; always k rounds, whatever the critique says; a round
sees the last answer and its critique, not those before them; and the answer may be the majority of all rounds.
The first answer is the question's plain sample, which other decodes share.
"""

from collections.abc import Mapping
from dataclasses import replace

from workbench.decodes import Sampling
from workbench.decoding.steps import Read, Stages, Stepped, Want, failure
from workbench.decoding.vote import majority
from workbench.prompts import load_prompt, render
from workbench.step_decodes import Revision
from workbench.types import Completion, Example, Finish, Prompt


def revise(decode: Revision, stages: Stages, read: Read) -> Stepped:
    """Answer, then criticise and rewrite k times, all questions together.

    A critique that was cut off serves as it is. An answer that was cut off or is empty is revised too.

    Args:
        decode: how.
        stages: the questions.
        read: tells an answer, for the majority.

    Raises:
        UserError: there is no such prompt, it lacks a variable, or as `Stages.ask`.
    """
    critique, rewrite = load_prompt(decode.critique), load_prompt(decode.revise)
    stop = stages.system.prompt.stop
    plain = replace(decode.sampling(), stop=stop)
    rounds: dict[str, list[Completion]] = {id: [] for id in stages.requests}
    failed: dict[str, Completion] = {}
    wants = {id: Want(id, request.messages) for id, request in stages.requests.items()}
    drafts = _ask(stages, wants, plain, "", None, failed)
    for round_ in range(1, decode.rounds + 1):
        for id, draft in drafts.items():
            rounds[id].append(draft)
        stages.tell(0)
        asks = {id: _about(stages, critique, id, draft=draft.text) for id, draft in drafts.items()}
        how = replace(plain, max_tokens=decode.critique_tokens, stop=critique.stop)
        said = _ask(stages, asks, how, f"critique-{round_}", critique, failed)
        asks = {
            id: _about(stages, rewrite, id, draft=drafts[id].text, critique=one.text) for id, one in said.items()
        }
        how = replace(plain, stop=(*rewrite.stop, *stop))
        drafts = _ask(stages, asks, how, f"revise-{round_}", rewrite, failed)
    for id, draft in drafts.items():
        rounds[id].append(draft)
    stages.tell(len(stages.requests))
    completions = {}
    for id in stages.requests:
        last = failed[id] if id in failed else _chosen(decode, id, rounds[id], read)
        completions[id] = stages.answer(id, last, last.text, last.logprob)
    kept = {id: drawn for id, drawn in rounds.items() if id not in failed}
    changed = sum(drawn[0].text.strip() != drawn[-1].text.strip() for drawn in kept.values())
    return stages.result(completions, {"revised_questions": changed}, kept)


def _about(stages: Stages, prompt: Prompt, question: str, *, draft: str, **values: str) -> Want:
    """What a prompt asks about a question, as it was put to the model, and a draft of its answer."""
    messages = stages.requests[question].messages
    last = max((i for i, message in enumerate(messages) if message.role == "user"), default=0)
    begun = "".join(message.content for message in messages[last + 1 :])  # where the prompt begins the answer
    values = {"draft": (begun + draft).strip(), **{name: text.strip() for name, text in values.items()}}
    return Want(question, render(prompt, Example.make(messages[last].content, "", variables=values)))


def _ask(
    stages: Stages,
    wants: Mapping[str, Want],
    sampling: Sampling,
    stage: str,
    prompt: Prompt | None,
    failed: dict[str, Completion],
) -> dict[str, Completion]:
    """The one sample of each question; those that failed are put with the failed."""
    found = {}
    for id, drawn in zip(wants, stages.ask(list(wants.values()), sampling, stage, prompt), strict=True):
        problem = failure(drawn, 1)
        if problem is not None:
            failed[id] = problem
        else:
            found[id] = drawn[0]
    return found


def _chosen(decode: Revision, question: str, drawn: list[Completion], read: Read) -> Completion:
    """The last answer, or the latest of those that give the most frequent one; cut-off ones have no voice."""
    if decode.choose == "last":
        return drawn[-1]
    answers = [read(question, c) if c.finish is Finish.STOP else None for c in drawn]
    winner = majority(question, answers)
    if winner is None:
        return drawn[-1]
    return next(c for c, answer in reversed(list(zip(drawn, answers, strict=True))) if answer == winner)
