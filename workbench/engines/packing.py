"""A batch as one sequence: the prefix that its prompts share once, each prompt a branch, its continuations twigs.

Every token has the position that it would have in its own sequence, and a 4-D mask lets it see the shared
prefix, its own prompt and its own continuation, nothing else. The result is the padded batch's, without the
padding and without computing the prefix again for every prompt. Used for scoring labels and for training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from workbench.engines.encode import common_prefix


@dataclass(frozen=True)
class Branch:
    """A prompt's tokens, those of one continuation, and the continuation's text."""

    prompt: list[int]
    continuation: list[int]
    text: str = ""


@dataclass(frozen=True)
class Packed:
    """One sequence of L tokens, and where the M tokens of the continuations are predicted.

    Attributes:
        ids, positions: [1, L].
        mask: bool [1, 1, L, L], true where a token (row) sees another (column).
        read_at: [M] positions whose logits predict `targets`; sorted in the order of the continuations.
        targets: [M] the continuations' tokens.
        owner: [M] the continuation each belongs to, 0 … count - 1, in reading order.
        count: number of continuations.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    read_at: torch.Tensor
    targets: torch.Tensor
    owner: torch.Tensor
    count: int


def pack(questions: Sequence[Sequence[Branch]], device: str = "cpu") -> Packed:
    """Pack questions, each with the branches of its continuations.

    The branches of one question share its prompt where their prompt tokens are equal. The last prompt token
    always stays out of the shared prefix: it predicts the first token of its own continuation.
    """
    prompts = [list(branch.prompt) for branches in questions for branch in branches]
    shared = common_prefix(prompts)
    ids: list[int] = prompts[0][:shared]
    positions = list(range(shared))
    # A token's block is a run in which it sees what came before; `parents` are the blocks seen whole.
    block = [0] * shared
    parents: list[tuple[int, ...]] = [()]
    read_at: list[int] = []
    targets: list[int] = []
    owner: list[int] = []
    count = 0
    for branches in questions:
        trunks: dict[tuple[int, ...], tuple[int, int]] = {}  # prompt tokens -> (block, its last token's place)
        for branch in branches:
            own = tuple(branch.prompt[shared:])
            if own not in trunks:
                parents.append((0,))
                ids.extend(own)
                positions.extend(range(shared, shared + len(own)))
                block.extend([len(parents) - 1] * len(own))
                trunks[own] = (len(parents) - 1, len(ids) - 1)
            trunk, at = trunks[own]
            parents.append((0, trunk))
            for offset, token in enumerate(branch.continuation):
                read_at.append(at)
                targets.append(token)
                owner.append(count)
                if offset + 1 < len(branch.continuation):  # the last token predicts nothing
                    ids.append(token)
                    positions.append(len(branch.prompt) + offset)
                    block.append(len(parents) - 1)
                    at = len(ids) - 1
            count += 1
    blocks = torch.tensor(block, device=device)
    sees = torch.eye(len(parents), dtype=torch.bool, device=device)
    for child, above in enumerate(parents):
        sees[child, list(above)] = True
    causal = torch.ones(len(ids), len(ids), dtype=torch.bool, device=device).tril()
    mask = causal & sees[blocks][:, blocks]

    def tensor(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return Packed(
        ids=tensor(ids)[None],
        positions=tensor(positions)[None],
        mask=mask[None, None],
        read_at=tensor(read_at),
        targets=tensor(targets),
        owner=tensor(owner),
        count=count,
    )


def questions_that_fit(questions: Sequence[Sequence[Branch]], limit: int = 1024) -> int:
    """How many of the first questions, sorted by their prompts, go into one sequence of some `limit` tokens.

    Attention being quadratic, a longer sequence costs more than two; one question always goes.
    """
    total = 0
    for count, branches in enumerate(questions):
        prompt = branches[0].prompt
        total += len(prompt) + sum(len(branch.continuation) for branch in branches)
        # What a later question shares with the first, all between share too: they are sorted.
        shared = common_prefix([questions[0][0].prompt, prompt])
        if count and total - shared * count > limit:
            return count
    return len(questions)
