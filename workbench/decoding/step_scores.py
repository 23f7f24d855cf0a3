"""What an answer so far is worth to a search: the model's own verdict on it, or a reward model's.

Both read the question and the answer so far, and are kept in the store; what reading them takes is counted into
the question's cost. The third scorer, a step's log-probability, comes with the step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.decoding.best_of_n import Scorer, reward, rewards
from workbench.decoding.scorers import Judge
from workbench.decoding.steps import Stages
from workbench.errors import UserError
from workbench.identity import folder_hash, model_identity, short_hash
from workbench.step_decodes import BeamSearch
from workbench.types import Completion


@dataclass(frozen=True)
class StepScorer:
    """What judges steps, ready, and what names its scores in the store."""

    scorer: Scorer
    key: Mapping[str, Any]


def open_step_scorer(decode: BeamSearch, stages: Stages, reward_model: Scorer | None) -> StepScorer | None:
    """What a search asks for its scores; None where they come with the steps.

    Args:
        decode: names it.
        stages: whose engine judges its own steps.
        reward_model: what the decode's folder holds, ready; None where it names no folder.

    Raises:
        UserError: there is no such prompt, or the reward model is not at hand.
    """
    if decode.scorer == "logprob":
        return None
    if decode.scorer == "judge":
        judge = Judge(stages.engine, decode.judge)
        model = model_identity(stages.system.model)
        prompt = short_hash(judge.prompt)
        return StepScorer(judge, {"model": model, "prompt": prompt, "how": "judge", "engine": judge.version})
    if reward_model is None:
        raise UserError(f"scorer is {decode.scorer!r}, and that reward model is not loaded here.")
    key = {"scorer": folder_hash(decode.scorer), "how": "reward", "engine": reward_model.version}
    return StepScorer(reward_model, key)


def step_scores(opened: StepScorer, asked: Sequence[tuple[str, str]], stages: Stages) -> list[float]:
    """P(True) or the reward of each answer so far, NaN where it could not be had; equal ones are scored once.

    A question's answers of one step share their prompt, which a reward model reads once and counts once.

    Args:
        opened: what judges.
        asked: (question id, the answer so far).
        stages: what the questions are and what they take.

    Raises:
        UserError: the server died; what was scored is stored.
    """
    distinct: dict[str, list[str]] = {}
    for id, text in dict.fromkeys(asked):
        distinct.setdefault(id, []).append(text)
    found = rewards(
        opened.key,
        [stages.requests[id] for id in distinct],
        {id: [Completion(0, text) for text in texts] for id, texts in distinct.items()},
        opened.scorer,
        stages.store,
    )
    scores: dict[tuple[str, str], float] = {}
    for id, texts in distinct.items():
        scores |= {(id, text): reward(rated) for text, rated in zip(texts, found[id], strict=True)}
        stages.spent[id].add([rated for rated in found[id] if rated], opened.scorer.shape)
    return [scores[one] for one in asked]
