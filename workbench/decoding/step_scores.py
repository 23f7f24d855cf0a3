"""What an answer so far is worth to a search: the model's own verdict on it, or a reward model's.

Both read the question and the answer so far, and are kept in the store; what reading them takes is counted into
the question's cost. The third scorer, a step's log-probability, comes with the step.
"""

from collections.abc import Sequence
from typing import Any

from workbench.decoding.best_of_n import Scorer, reward, rewards
from workbench.decoding.scorers import Judge
from workbench.decoding.steps import Stages
from workbench.errors import UserError
from workbench.identity import folder_hash, model_identity, short_hash
from workbench.prompts import load_prompt
from workbench.step_decodes import BeamSearch
from workbench.types import Completion


def step_scores(
    decode: BeamSearch, asked: Sequence[tuple[str, str]], stages: Stages, reward_model: Scorer | None
) -> list[float]:
    """P(True) or the reward of each answer so far, NaN where it could not be had; equal ones are scored once.

    Args:
        decode: its scorer is not `logprob`.
        asked: (question id, the answer so far).
        stages: what the questions are and what they take.
        reward_model: what the decode's folder holds, ready; None for the model's own verdict.

    Raises:
        UserError: there is no such prompt, no reward model, or the server died; what was scored is stored.
    """
    scorer: Scorer
    if decode.scorer == "judge":
        scorer = judge = Judge(stages.engine)
        judge.prompt = load_prompt(decode.judge)
        key: dict[str, Any] = {"model": model_identity(stages.system.model), "prompt": short_hash(judge.prompt)}
    elif reward_model is not None:
        scorer, key = reward_model, {"scorer": folder_hash(decode.scorer)}
    else:
        raise UserError(f"scorer is {decode.scorer!r}, and that reward model is not loaded here.")
    distinct: dict[str, list[str]] = {}
    for id, text in dict.fromkeys(asked):
        distinct.setdefault(id, []).append(text)
    found = rewards(
        {**key, "how": "judge" if decode.scorer == "judge" else "reward", "engine": scorer.version},
        [stages.requests[id] for id in distinct],
        {id: [Completion(0, text) for text in texts] for id, texts in distinct.items()},
        scorer,
        stages.store,
    )
    scores: dict[tuple[str, str], float] = {}
    for id, texts in distinct.items():
        for text, rated in zip(texts, found[id], strict=True):
            scores[id, text] = reward(rated)
            stages.spent[id].add([rated] if rated else [], scorer.shape)
    return [scores[one] for one in asked]
