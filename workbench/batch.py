"""Many samples of many prompts from a file, through the store, into a file: what `workbench sample` does.

A row holds a prompt (a user's message, or with the style `text` a text to go on with) or a conversation. One
whose last turn is the assistant's is answered already, and refused, unless that turn's `finish` is `stopped` or
`length`: so `workbench chat` saves an answer that did not come to its end, and the model goes on with it.

A question is a conversation, whatever its row is called: its hash names it in the store and gives its samples
their seeds, so another text never takes its samples, and one that stands in several rows is drawn once.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.decodes import Sample
from workbench.decoding.ask import drawing, stream_key
from workbench.engines.base import Engine
from workbench.errors import UserError
from workbench.files import atomic_file, json_bytes
from workbench.identity import to_json
from workbench.store import Store
from workbench.tasks.rows import bad_row, iterate_rows, text_field, turns_field
from workbench.types import Completion, Finish, Message, Model, Prompt, Request, System, text_hash

Progress = Callable[[int, int, str], None]
"""Called with samples there, samples wanted, and a word on the speed."""


@dataclass(frozen=True)
class Counts:
    """What became of a file of prompts. A sample of a question with several ids counts once.

    Attributes:
        samples: written.
        drawn: those of them that were drawn now; the others were in the store.
        tokens: generated now.
        seconds: that drawing took.
        truncated: of the samples, those cut off before they ended.
        failed: of the samples, those that are errors.
        first_error: of the first that failed.
        repeated: rows written that say a sample again, under another id of its question.
    """

    samples: int
    drawn: int
    tokens: int
    seconds: float
    truncated: int
    failed: int
    first_error: str = ""
    repeated: int = 0

    def line(self, output: Path) -> str:
        """The closing line."""
        speed = f" ({self.tokens:,} tokens, {self.tokens / self.seconds:,.0f} tokens/s)" if self.tokens else ""
        kept = self.samples - self.drawn - self.failed
        again = f" {self.repeated:,} more rows repeat samples under another id." if self.repeated else ""
        return (
            f"{self.samples:,} samples in {output}: {self.drawn:,} drawn now{speed}, {kept:,} from the store, "
            f"{self.failed:,} errors; {self.truncated:,} truncated.{again}"
        )


def check_output(output: Path, source: Path) -> None:
    """Refuse a place for the samples that could not be written to, before any is drawn.

    Raises:
        UserError: it is no .jsonl file, it is a folder, or it is the file of prompts.
    """
    if output.suffix != ".jsonl":
        raise UserError(f"output is {str(output)!r}; samples are JSONL: give a name that ends in .jsonl.")
    if output.is_dir():
        raise UserError(f"output is {str(output)!r}, which is a folder; give a file in it.")
    if output.exists() and source.exists() and output.samefile(source):
        raise UserError(f"output is {str(output)!r}, the file of prompts, which would be lost; give another name.")


def read_prompts(path: Path, style: str) -> dict[str, Request]:
    """The questions of a file of prompts by their rows' ids, in the file's order.

    A row without an id has its conversation's hash for one. Rows with the same id and the same conversation are
    one. Fields other than `id`, `prompt` and `messages` are passed over.

    Args:
        path: a .jsonl, .csv or .parquet file.
        style: `chat` makes a prompt a user's message; `text` takes it as it is.

    Raises:
        UserError: the file cannot be read, or a row is at fault; the message names the row and the field.
    """
    source = str(path)
    found: dict[str, Request] = {}
    rows: dict[str, int] = {}
    for number, row in iterate_rows(source):
        messages = _conversation(source, number, row, style)
        request = Request(_name(messages, style), messages, style=style)
        id = text_field(source, number, row, "id") if row.get("id") is not None else request.id
        if id in found and found[id] != request:
            raise bad_row(source, number, f"row {rows[id]} has the id {id!r} with another conversation", "id")
        found.setdefault(id, request)
        rows.setdefault(id, number)
    return found


def draw(
    prompts: Sequence[Request], system: System, engine: Engine, store: Store, progress: Progress
) -> tuple[int, int, dict[str, list[Completion]]]:
    """Draw the samples that the store lacks, each batch stored before the next one starts.

    Args:
        prompts: questions, each one once.
        system: its decode says how many samples and how.
        engine: the System's model, ready.
        store: where samples are kept.
        progress: called after every batch.

    Returns:
        Samples drawn, tokens generated, and the requests that failed by question.

    Raises:
        UserError: the server died or refuses; what was answered is stored.
    """
    assert isinstance(system.decode, Sample)
    ids = [request.id for request in prompts]
    missing = store.missing(store.stream(stream_key(system, engine.version, ())), ids, system.decode.n)
    total = len(ids) * system.decode.n
    done = total - sum(map(len, missing.values()))
    drawn = tokens = 0
    failed: dict[str, list[Completion]] = {}
    started = time.monotonic()
    progress(done, total, "")
    for batch in drawing(system, prompts, (), missing, engine, store):
        for id, completion in batch:
            tokens += completion.completion_tokens
            if completion.finish is Finish.ERROR:
                failed.setdefault(id, []).append(completion)
            else:
                drawn += 1
        done += len(batch)
        progress(done, total, f"{tokens / max(time.monotonic() - started, 1e-9):,.0f} tokens/s")
    return drawn, tokens, failed


def sample(
    prompts: dict[str, Request], system: System, engine: Engine, store: Store, output: Path, progress: Progress
) -> Counts:
    """Draw what is missing and write every sample, a row each, in the order of the prompts and of the indices.

    A row has the fields `id`, `index`, `text` (exactly as generated), `finish`, `prompt_tokens`,
    `completion_tokens`, `logprob` and `error`. The file is there whole or, after an error, as it was.

    Raises:
        UserError: as `draw`, or the file cannot be written.
    """
    assert isinstance(system.decode, Sample)
    n, stream = system.decode.n, store.stream(stream_key(system, engine.version, ()))
    started = time.monotonic()
    # A dictionary, because one conversation may have several ids.
    questions = list({request.id: request for request in prompts.values()}.values())
    drawn, tokens, failed = draw(questions, system, engine, store, progress)
    seconds = time.monotonic() - started
    samples = truncated = repeated = 0
    counted: set[str] = set()
    with atomic_file(output) as file:
        for id, request in prompts.items():
            stored = store.read(stream, [request.id], n).get(request.id, [])
            completions = sorted([*stored, *failed.get(request.id, [])], key=lambda c: c.index)
            for completion in completions:
                file.write(json_bytes(_row(id, completion)) + b"\n")
            if request.id in counted:
                repeated += len(completions)
            else:
                samples += len(completions)
                truncated += sum(completion.finish is Finish.LENGTH for completion in completions)
                counted.add(request.id)
    first = next((str(c[0].error) for c in failed.values()), "")
    return Counts(samples, drawn, tokens, seconds, truncated, sum(map(len, failed.values())), first, repeated)


def system_of(model: Model, decode: Sample, stop: tuple[str, ...], style: str) -> System:
    """The System that answers a file's prompts: its own prompt has no messages, since every row brings them."""
    return System(model, Prompt("sample", (), stop=stop, style=style), decode)


def _conversation(source: str, number: int, row: dict[str, Any], style: str) -> tuple[Message, ...]:
    given = [field for field in ("prompt", "messages") if row.get(field) is not None]
    if len(given) != 1:
        if given:
            told = f"it has {' and '.join(given)}"
        elif null := [field for field in ("prompt", "messages") if field in row]:
            told = f"its {' and '.join(null)} {'is' if len(null) == 1 else 'are'} null"
        else:
            told = f"it has {', '.join(map(repr, row)) or 'no field'}"
        raise bad_row(source, number, f"the row must have one of 'prompt' and 'messages'; {told}")
    if given == ["prompt"]:
        return (Message("user", text_field(source, number, row, "prompt")),)
    if style == "text":
        problem = "the style text goes on with a prompt; a conversation wants the style chat"
        raise bad_row(source, number, problem, "messages")
    messages = turns_field(source, number, row, "messages")
    if messages[-1].role == "system":
        raise bad_row(source, number, "its last turn is the system's, which asks for no answer", "messages")
    if messages[-1].role == "assistant" and not _broke_off(row["messages"]):
        problem = "its last turn is the assistant's, so it is answered already; leave that turn out"
        problem += ', or, if the model is to go on with it, give it "finish": "length"'
        raise bad_row(source, number, problem, "messages")
    return messages


def _broke_off(turns: Any) -> bool:
    """Whether the last turn says that it did not come to its end."""
    turns = json.loads(turns) if isinstance(turns, str) else turns  # as in CSV
    return turns[-1].get("finish") in ("stopped", "length")


def _name(messages: Sequence[Message], style: str) -> str:
    return text_hash(json.dumps([style, to_json(tuple(messages))], sort_keys=True, ensure_ascii=False))


def _row(id: str, completion: Completion) -> dict[str, Any]:
    return {
        "id": id,
        "index": completion.index,
        "text": completion.text,
        "finish": completion.finish.value,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "logprob": completion.logprob,
        "error": completion.error,
    }
