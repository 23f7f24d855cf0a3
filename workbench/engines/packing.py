"""A batch as one sequence: the tree of its prompts and continuations, every shared beginning in it once.

Every token has the position that it would have in its own sequence, and a 4-D mask lets it see what comes before
it in its own sequence and nothing else. The result is the padded batch's, without the padding and without
computing anything that two sequences begin with twice. Used for scoring labels and for training.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Branch:
    """A prompt's tokens, those of one continuation, and the continuation's text."""

    prompt: list[int]
    continuation: list[int]
    text: str = ""


@dataclass(frozen=True)
class Tokens:
    """One training example: what the model reads, and which of it it learns to say.

    Attributes:
        ids: the tokens, at least two.
        learned: places in `ids`, ascending and none of them 0, whose tokens are predicted from all before them.
    """

    ids: list[int]
    learned: list[int]


@dataclass(frozen=True)
class Packed:
    """One sequence of L tokens behind C cached ones, and where the M tokens of the continuations are predicted.

    Attributes:
        ids, positions: [1, L].
        mask: bool [1, 1, L, C + L], true where a token (row) sees another (column).
        read_at: [M] places among the L whose logits predict `targets`, in the order of the continuations.
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


class _Tree:
    """Tokens by what they follow: the same token behind the same beginning is one node."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.parents: list[int] = []  # -1 for a first token
        self._nodes: dict[tuple[int, int], int] = {}

    def add(self, at: int, tokens: Sequence[int]) -> list[int]:
        """Put tokens behind the node `at`; their nodes, which may have been there before."""
        path = []
        for token in tokens:
            parent = at
            at = self._nodes.setdefault((parent, token), len(self.ids))
            if at == len(self.ids):
                self.ids.append(token)
                self.parents.append(parent)
            path.append(at)
        return path


def pack(
    questions: Sequence[Sequence[Branch]], device: str = "cpu", *, virtual: int = 0, cached: int = 0
) -> Packed:
    """Pack questions, each with the branches of its continuations.

    Args:
        questions: at least one branch in all.
        device: where the tensors go.
        virtual: positions that are taken before a prompt's first token, by a soft prompt's virtual tokens.
        cached: leading tokens that all prompts share and that stay out of the sequence: their keys and values
            are at hand, behind those of the virtual tokens. Every prompt is longer.
    """
    tree = _Tree()
    reads: list[list[int]] = []
    targets: list[list[int]] = []
    for branch in (branch for branches in questions for branch in branches):
        prompt = tree.add(-1, branch.prompt[cached:])
        said = tree.add(prompt[-1], branch.continuation[:-1])  # the last token predicts nothing
        reads.append([prompt[-1], *said][: len(branch.continuation)])
        targets.append(branch.continuation)
    return _packed(tree, reads, targets, virtual + cached, device)


def pack_examples(examples: Sequence[Tokens], device: str = "cpu", *, virtual: int = 0) -> Packed:
    """Pack training examples; `owner` tells which of them a target is of. `device` and `virtual` as in `pack`."""
    tree = _Tree()
    reads, targets = [], []
    for example in examples:
        nodes = tree.add(-1, example.ids[: example.learned[-1]])  # behind the last that is learned nothing counts
        reads.append([nodes[place - 1] for place in example.learned])
        targets.append([example.ids[place] for place in example.learned])
    return _packed(tree, reads, targets, virtual, device)


def _packed(tree: _Tree, reads: list[list[int]], targets: list[list[int]], before: int, device: str) -> Packed:
    """The tree as one sequence behind `before` positions, each continuation's reading places and targets."""
    length = len(tree.ids)
    sees = np.zeros((length, before + length), dtype=bool)
    sees[:, :before] = True
    positions = np.zeros(length, dtype=np.int64)
    for node, parent in enumerate(tree.parents):  # a node stands behind its parent
        if parent >= 0:
            sees[node] = sees[parent]
        sees[node, before + node] = True
        positions[node] = before if parent < 0 else positions[parent] + 1

    def tensor(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return Packed(
        ids=tensor(tree.ids)[None],
        positions=torch.from_numpy(positions).to(device)[None],
        mask=torch.from_numpy(sees).to(device)[None, None],
        read_at=tensor([node for places in reads for node in places]),
        targets=tensor([token for tokens in targets for token in tokens]),
        owner=tensor([i for i, tokens in enumerate(targets) for _ in tokens]),
        count=len(targets),
    )


def questions_that_fit(questions: Sequence[Sequence[Branch]], limit: int = 1024, *, cached: int = 0) -> int:
    """How many of the first questions go into one sequence of `limit` tokens; one question always goes.

    Attention being quadratic, a longer sequence costs more than two. `cached` is as in `pack`.
    """
    tree = _Tree()
    for count, branches in enumerate(questions):
        for branch in branches:
            end = tree.add(-1, branch.prompt[cached:])[-1]
            tree.add(end, branch.continuation[:-1])
        if count and len(tree.ids) > limit:
            return count
    return len(questions)


def sequence_on(device: torch.device | str) -> int:
    """Tokens of one sequence: attention is quadratic in it, and a GPU wants more work at once than a CPU."""
    return 1024 if torch.device(device).type == "cpu" else 8192


def rows_that_fit(items: Sequence[Sequence[Tokens]], limit: int) -> int:
    """How many of the first items, each some rows, go into one sequence of `limit` tokens; one always goes."""
    tree = _Tree()
    for count, rows in enumerate(items):
        for row in rows:
            tree.add(-1, row.ids[: row.learned[-1]])
        if count and len(tree.ids) > limit:
            return count
    return len(items)
