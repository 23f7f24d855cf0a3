"""From preference pairs to rows of tokens, those of one prompt together, and what the reference gives them."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from workbench.cost import EnergyMeter
from workbench.engines.encode import Encoder
from workbench.engines.packing import Tokens, rows_that_fit, sequence_on
from workbench.errors import UserError
from workbench.files import read_json, write_json
from workbench.identity import short_hash
from workbench.launch import from_first, is_helper
from workbench.preferring.pairs import Pair
from workbench.progress import Bar
from workbench.runs import Run
from workbench.training.config import Training
from workbench.training.objective import FORWARD_TOKENS, Objective
from workbench.training.trainer import is_out_of_memory, out_of_memory
from workbench.types import Request


@dataclass(frozen=True)
class PairRows:
    """The pairs of one prompt, as a batch counts them.

    Attributes:
        rows: chosen and rejected of each pair in turn; then, where a loss wants them, the prompt with answers to
            another one, as many again.
        pairs: how many.
        reference: the summed log-probability (nats) of each row's answer under the reference.
    """

    rows: tuple[Tokens, ...]
    pairs: int
    reference: tuple[float, ...] = ()


def rows_of_pairs(
    pairs: Sequence[Pair], encoder: Encoder, training: Training, *, mismatched: bool = False
) -> tuple[list[PairRows], dict[str, int]]:
    """Pairs by their prompts, in the order of the first of each, and how many there are.

    A pair of which one row is longer than `max_length` is left out, and counted.

    Args:
        pairs: those of one prompt share a group.
        encoder: the model's.
        training: how long a row may be, and how many prompts are taken.
        mismatched: add rows with the answers of the next prompt.

    Raises:
        UserError: no pair is left, or, for mismatched rows, those of one prompt only.
    """
    groups: dict[str, list[tuple[list[int], list[int], list[int]]]] = {}
    too_long = 0
    for pair in pairs:
        request = Request(pair.group, pair.prompt, style=pair.style)
        asked, chosen = encoder.encode_completion(request, pair.chosen)
        _, rejected = encoder.encode_completion(request, pair.rejected)
        if len(asked) + max(len(chosen), len(rejected)) > training.max_length:
            too_long += 1
        else:
            groups.setdefault(pair.group, []).append((asked, chosen, rejected))
    kept = list(groups.values())[: training.examples]
    if not kept:
        raise UserError(
            f"No pair is left: all {too_long} have more than {training.max_length} tokens; raise --max-length."
        )
    if mismatched and len(kept) < 2:
        raise UserError("The loss kto compares a prompt with the answers to another one, and there is one prompt.")
    found = []
    for i, group in enumerate(kept):
        rows = [_row(asked, said) for asked, *both in group for said in both]
        if mismatched:
            others = [said for _, *both in kept[(i + 1) % len(kept)] for said in both]
            rows += [_row(group[0][0], others[j % len(others)]) for j in range(len(rows))]
        found.append(PairRows(tuple(rows), len(group)))
    if too_long and not is_helper():
        print(f"{too_long} pairs left out, with more than {training.max_length} tokens.", file=sys.stderr)
    learned = [row for group in found for row in group.rows[: 2 * group.pairs]]
    return found, {
        "learned": sum(group.pairs for group in found),
        "prompts": len(found),
        "too_long": too_long,
        "tokens": sum(len(row.ids) for row in learned),
        "learned_tokens": sum(len(row.learned) for row in learned),
    }


def with_reference(
    groups: Sequence[PairRows], objective: Objective, run: Run, content: Any, precision: str, quiet: bool
) -> list[PairRows]:
    """The pairs with what the reference, the model as it is before the first update, gives their answers.

    Computed once, before the training, and kept in the run's `reference.json`; seconds, energy and tokens of it
    are a line of `metrics.jsonl`.

    Args:
        groups: the pairs.
        objective: its weights are untrained as yet.
        run: where the log-probabilities are kept.
        content: what they depend on beside the rows, as JSON data.
        precision: bfloat16 rounds float32 weights on the way, as the training does.
        quiet: no progress bar.

    Raises:
        UserError: the run holds the reference of other pairs or of another model.
    """
    file = Path(run.path / "reference.json")
    key = short_hash([content, [[row.ids for row in group.rows] for group in groups]])

    def computed() -> Any:
        if not file.exists():
            _compute(groups, objective, run, key, precision, quiet)
        return read_json(file)

    found = from_first(computed)
    if found["of"] != key:
        raise UserError(
            f"{file} is of other pairs, or of another model. Give this run another --name, or --overwrite."
        )
    return [replace(g, reference=tuple(logps)) for g, logps in zip(groups, found["logprobs"], strict=True)]


def _compute(
    groups: Sequence[PairRows], objective: Objective, run: Run, key: str, precision: str, quiet: bool
) -> None:
    started, found, rest, most = time.perf_counter(), [], list(groups), len(groups)
    training, device = objective.training, objective.weights.device
    limit = sequence_on(device)
    half = precision == "bfloat16" and objective.weights.dtype == torch.float32
    objective.eval()
    with EnergyMeter() as meter, Bar("reference", quiet=quiet) as bar:
        while rest:
            part = rest[: min(most, rows_that_fit([group.rows for group in rest], limit))]
            try:
                with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half):
                    batch = objective.packed([row for group in part for row in group.rows])
                    logps = summed(objective.logits(batch), batch).tolist()
                problem = ""
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                problem = str(error).strip().partition("\n")[0]
            if problem:  # outside the block above, whose error holds on to the tensors
                if len(part) == 1:
                    raise out_of_memory(f"in the reference's pass over one prompt ({problem})", whole=True)
                most = len(part) // 2
                continue
            rest = rest[len(part) :]
            for group in part:
                found.append(logps[: len(group.rows)])
                logps = logps[len(group.rows) :]
            bar.show(len(groups) - len(rest), len(groups))
    objective.train(training)
    tokens = objective.read(groups)
    run.log(
        event="reference", step=0, seconds=time.perf_counter() - started, watt_hours=meter.watt_hours,
        **{FORWARD_TOKENS: tokens},
    )  # fmt: skip
    write_json(run.path / "reference.json", {"of": key, "logprobs": found})


def token_logps(logits_MV: torch.Tensor, batch: Any) -> torch.Tensor:
    """Log-probabilities [M] of a batch's targets."""
    return -torch.nn.functional.cross_entropy(logits_MV, batch.targets, reduction="none")


def summed(logits_MV: torch.Tensor, batch: Any) -> torch.Tensor:
    """The summed log-probability [rows] of each row's learned tokens."""
    logps_M = token_logps(logits_MV, batch)
    return torch.zeros(batch.count, device=logps_M.device).index_add(0, batch.owner, logps_M)


def _row(asked: list[int], said: list[int]) -> Tokens:
    return Tokens([*asked, *said], list(range(len(asked), len(asked) + len(said))))
