"""Beam search over steps with a process scorer (Snell et al. 2024, arXiv 2408.03314, §5.2), and diverse search.

N first steps are drawn, the best M kept, each gone on with in N / M ways, and so on until every kept one has
ended. Diverse verifier tree search (Beeching et al. 2024, "Scaling test-time compute with open models") does so
in M trees, each of which keeps its best. Where it departs from the papers: the scorer need not be a trained
process reward model; a kept beam that has ended keeps its place, so that M beams are finished in the end, where
the papers go on until N are; of equal answers so far one is a candidate, except in different trees; and a step's
last blanks are drawn again with the next one, because a word's leading blank is part of its first token.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from workbench.decodes import Sampling
from workbench.decoding.best_of_n import Scorer, weight
from workbench.decoding.step_scores import StepScorer, open_step_scorer, step_scores
from workbench.decoding.steps import Read, Stages, Stepped, Want, continued, cut_at, failure
from workbench.decoding.vote import weighted_majority
from workbench.step_decodes import BeamSearch
from workbench.types import Completion, Finish


@dataclass(frozen=True)
class Beam:
    """An answer so far.

    Attributes:
        tree: which subtree it is in; one in a search that is not diverse.
        text: of the answer.
        tokens, logprob: of all its steps, and the sum of their log-probabilities.
        steps: how many.
        score: of its last step.
        finish: why it ended; None where it goes on.
    """

    tree: int
    text: str = ""
    tokens: int = 0
    logprob: float = 0.0
    steps: int = 0
    score: float = 0.0
    finish: Finish | None = None


def search(decode: BeamSearch, stages: Stages, read: Read, scorer: Scorer | None = None) -> Stepped:
    """Search for all questions together, a step at a time.

    Args:
        decode: how.
        stages: the questions.
        read: tells an answer, for the vote.
        scorer: the reward model, where the decode names one.

    Raises:
        UserError: as `open_step_scorer`, `Stages.ask` and `step_scores`.
    """
    opened = open_step_scorer(decode, stages, scorer)  # what cannot be scored is not drawn
    trees = range(decode.keep if decode.diverse else 1)
    active = {id: [Beam(tree) for tree in trees] for id in stages.requests}
    ended: dict[str, list[Beam]] = {id: [] for id in active}
    failed: dict[str, Completion] = {}
    step = 0
    while active:
        candidates, broken = _expand(decode, stages, active, step)
        whole = {id: beams for id, beams in candidates.items() if id not in broken}
        rated, unrated = _rate(decode, stages, whole, opened)
        failed |= broken | unrated
        for id in list(active):
            if id in failed:
                del active[id]
                continue
            kept = _kept(decode, rated[id], decode.keep - len(ended[id]))
            ended[id] += [beam for beam in kept if beam.finish]
            active[id] = [beam for beam in kept if not beam.finish]
            if not active[id]:
                del active[id]
        step += 1
        stages.tell(len(stages.requests) - len(active))
    completions, chosen = {}, []
    for id in stages.requests:
        if id in failed:
            completions[id] = stages.answer(id, failed[id], "")
            continue
        beam = _choose(decode, id, ended[id], read)
        chosen.append(beam)
        last = Completion(0, beam.text, finish=beam.finish or Finish.LENGTH)
        completions[id] = stages.answer(id, last, beam.text, beam.logprob)
    count = max(1, len(chosen))
    finished = sum(beam.finish is Finish.STOP for id in stages.requests for beam in ended[id] if id not in failed)
    metrics = {
        "steps": sum(beam.steps for beam in chosen) / count,
        "finished_beams": finished / count,
        "answer_tokens": sum(beam.tokens for beam in chosen) / count,
    }
    note = (
        f"The chosen answer has {metrics['steps']:.1f} steps and {metrics['answer_tokens']:.1f} tokens on average "
        f"and is one of {metrics['finished_beams']:.1f} finished beams, chosen by {decode.choose}."
    )
    return stages.result(completions, metrics, notes=[note] if chosen else [])


def _expand(
    decode: BeamSearch, stages: Stages, active: dict[str, list[Beam]], step: int
) -> tuple[dict[str, list[Beam]], dict[str, Completion]]:
    """(the candidates of the next step by question, the questions whose stage failed)."""
    stop = stages.system.prompt.stop
    # Equal answers so far are one conversation, of which each beam gets samples of its own.
    shared: dict[tuple[str, str, int], list[Beam]] = {}
    for id, beams in active.items():
        for beam in beams:
            limit = min(decode.step_tokens, decode.longest - beam.tokens)
            shared.setdefault((id, beam.text, limit), []).append(beam)
    width = decode.beams if step == 0 and not decode.diverse else decode.beams // decode.keep
    wants = [
        Want(id, continued(stages.requests[id].messages, text), width * len(beams), limit)
        for (id, text, limit), beams in shared.items()
    ]
    sampling = Sampling(
        decode.temperature, decode.top_p, decode.top_k, decode.step_tokens,
        (*decode.separators, *stop), decode.seed, keep_stop=True,
    )  # fmt: skip
    candidates: dict[str, list[Beam]] = {id: [] for id in active}
    failed: dict[str, Completion] = {}
    for want, beams, found in zip(
        wants, shared.values(), stages.ask(wants, sampling, f"step-{step}"), strict=True
    ):
        problem = failure(found, want.n)
        if problem is not None:
            failed.setdefault(want.question, problem)
            continue
        for place, c in enumerate(found):
            assert want.max_tokens is not None
            candidates[want.question].append(_extended(decode, beams[place // width], c, want.max_tokens, stop))
    return candidates, failed


def _extended(decode: BeamSearch, beam: Beam, c: Completion, limit: int, stop: Sequence[str]) -> Beam:
    """The beam with one more step, which had a limit of so many tokens."""
    text = beam.text + c.text
    tokens = beam.tokens + max(1, c.completion_tokens)  # so that a search of empty steps ends too
    finish: Finish | None = None
    stopped = cut_at(text, stop)
    if stopped is not None:
        text, finish = stopped, Finish.STOP
    elif c.finish is Finish.STOP and not c.text.endswith(decode.separators):
        finish = Finish.STOP
    elif tokens >= decode.longest or (c.finish is Finish.LENGTH and c.completion_tokens < limit):
        finish = Finish.LENGTH  # the second: the context is full
    logprob = math.nan if c.logprob is None else c.logprob
    return replace(
        beam,
        text=text if finish else text.rstrip(" "),
        tokens=tokens,
        logprob=beam.logprob + logprob,
        steps=beam.steps + 1,
        score=logprob / max(1, c.completion_tokens),
        finish=finish,
    )


def _rate(
    decode: BeamSearch, stages: Stages, candidates: dict[str, list[Beam]], opened: StepScorer | None
) -> tuple[dict[str, list[Beam]], dict[str, Completion]]:
    """(the candidates with their steps' scores, the questions of which a score is missing)."""
    if opened is not None:
        flat = [(id, beam) for id, beams in candidates.items() for beam in beams]
        scores = step_scores(opened, [(id, beam.text) for id, beam in flat], stages)
        candidates = {id: [] for id in candidates}
        for (id, beam), score in zip(flat, scores, strict=True):
            candidates[id].append(replace(beam, score=score))
    failed = {}
    for id, beams in candidates.items():
        if any(math.isnan(beam.score) for beam in beams):
            why = f"a step has no score from {decode.scorer!r}"
            failed[id] = Completion(0, "", finish=Finish.ERROR, error=why)
    return candidates, failed


def _kept(decode: BeamSearch, candidates: Sequence[Beam], places: int) -> list[Beam]:
    """The candidates that are kept: the best of each tree, or the best of all; of equal scores the first."""
    ranked = sorted(candidates, key=lambda beam: -beam.score)
    if decode.diverse:
        return list({beam.tree: beam for beam in reversed(ranked)}.values())[::-1]
    distinct: dict[str, Beam] = {}
    for beam in ranked:
        distinct.setdefault(beam.text, beam)
    return list(distinct.values())[:places]


def _choose(decode: BeamSearch, question: str, beams: Sequence[Beam], read: Read) -> Beam:
    """The answer among the finished beams, or where none finished the best of those that were cut off."""
    ranked = sorted(beams, key=lambda beam: -final_score(decode, beam))
    finished = [beam for beam in ranked if beam.finish is Finish.STOP]
    if decode.choose == "score" or not finished:
        return (finished or ranked)[0]
    answers = [read(question, Completion(0, beam.text)) for beam in finished]
    weights = [weight(decode.scorer, final_score(decode, beam)) for beam in finished]
    winner = weighted_majority(question, answers, weights)
    return finished[0 if winner is None else answers.index(winner)]


def final_score(decode: BeamSearch, beam: Beam) -> float:
    """A whole answer's score: the last step's, which has read all of it, or the mean log-probability a token."""
    return beam.logprob / max(1, beam.tokens) if decode.scorer == "logprob" else beam.score
