"""What the workbench talks about: frozen dataclasses, standard library only.

A `System` is three slots, `(model, prompt, decode)`. Every method of adapting a model fills one slot and
leaves the others alone, so methods compose. The decode slot is in `decodes.py`, the JSON round trip and
content hashes in `identity.py`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from workbench.decodes import Decode, Sampling

# --- the model slot ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """A reference to a model, never its weights.

    Attributes:
        base: `smollm2-135m-instruct` (the embedded model), a local folder, a Hub id, or the name that a
            server knows the model by.
        revision: a Hub revision; None is the default branch.
        adapter: a folder with an adapter in PEFT's format, or None.
        quantization: `nf4` or `int8` (bitsandbytes) packs the base's linear layers on loading; None as they are.
    """

    base: str
    revision: str | None = None
    adapter: str | None = None
    quantization: str | None = None


# --- the prompt slot --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Message:
    """One turn of a conversation: a Jinja template in a `Prompt`, plain text in a `Request`."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """One question of a task.

    Attributes:
        id: 16 hexadecimal digits, a hash of the content (see `Example.make`).
        input: the question's text.
        target: the right answer, as text.
        rationale: a worked solution ending in the answer; empty where the task has none.
        variables: further fields that prompts and graders may read, as (name, value) pairs.
    """

    id: str
    input: str
    target: str
    rationale: str = ""
    variables: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def make(
        input: str, target: str, rationale: str = "", variables: Mapping[str, str] | None = None
    ) -> "Example":
        """An example whose id is the hash of its input, with white space runs folded.

        The target is left out of the id on purpose: the same question is the same example, and lands in
        the same split, in every variant of a data set.
        """
        identity = " ".join(input.split())
        extra = tuple(sorted((variables or {}).items()))
        return Example(text_hash(identity), input, target, rationale, extra)


class Selection(StrEnum):
    """How the exemplars of a few-shot prompt are taken from its pool."""

    FIXED = "fixed"  # the pool itself, in its order, for every question
    BM25 = "bm25"  # the k nearest of the pool by BM25 over words
    EMBEDDING = "embedding"  # the k nearest by cosine of the model's own mean-pooled last hidden states
    SENTENCE = "sentence-transformer"  # the k nearest by cosine of a sentence-transformers model's vectors


class Order(StrEnum):
    """The order of the exemplars in the prompt. Fixed exemplars stand as in their pool unless it is `seeded`."""

    NEAREST_FIRST = "nearest-first"  # KATE's default: the nearest is leftmost
    NEAREST_LAST = "nearest-last"
    SEEDED = "seeded"  # shuffled by `Shots.order_seed`


@dataclass(frozen=True)
class Shots:
    """The exemplars of a few-shot prompt. The pool travels with the System, so that a System is complete.

    Attributes:
        pool: practice examples.
        k: exemplars a question.
        selection: which of the pool a question gets.
        order: how they stand in the prompt.
        order_seed: which shuffle, where the order is `seeded`.
        encoder: the sentence-transformers model of the selection `sentence-transformer`: a folder or a Hub id.
    """

    pool: tuple[Example, ...]
    k: int
    selection: Selection = Selection.FIXED
    order: Order = Order.NEAREST_FIRST
    order_seed: int = 0
    encoder: str | None = None


@dataclass(frozen=True)
class Prompt:
    """A prompt file's content, and the exemplars that go with it.

    Attributes:
        name: the file's name without `.yaml`.
        messages: the conversation that asks the question; contents are Jinja templates. A last message
            of the role `assistant` is the start of the answer, which the model goes on with.
        shot: how one exemplar is shown; empty where the prompt takes none.
        variables: the names that the templates may use, beside `input` and those of one exemplar.
        stop: strings that end the answer; an empty one is a `UserError`.
        style: `chat` passes the messages through the model's chat template; `text` joins their contents
            as they are, for base models and exact comparisons.
        file_hash: hash of the file's bytes.
        shots: the exemplars, or None for zero-shot.
        defaults: values of the variables that an example need not bring, as (name, value) pairs.
    """

    name: str
    messages: tuple[Message, ...]
    shot: tuple[Message, ...] = ()
    variables: tuple[str, ...] = ("input",)
    stop: tuple[str, ...] = ()
    style: str = "chat"
    file_hash: str = ""
    shots: Shots | None = None
    defaults: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        Sampling(stop=self.stop)  # refuses a string that is empty


# --- a System ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class System:
    """One way of answering a task's questions: what is measured, compared, served and chatted with."""

    model: Model
    prompt: Prompt
    decode: Decode


# --- what goes to an engine and what comes back -----------------------------------------------------


@dataclass(frozen=True)
class Request:
    """One question as an engine sees it.

    Attributes:
        id: the question's id; with the sampling seed and a sample's index it fixes that sample's seed.
        messages: the rendered conversation; contents are plain text, never control tokens.
        indices: which samples are wanted; samples 0–15 are there, then 16–63 are asked for.
        style: as `Prompt.style`.
        max_tokens: of each of its samples, where that is fewer than the sampling allows.
    """

    id: str
    messages: tuple[Message, ...]
    indices: tuple[int, ...] = (0,)
    style: str = "chat"
    max_tokens: int | None = None


class Finish(StrEnum):
    """Why a completion ended."""

    STOP = "stop"  # the model ended it, or a stop string did
    LENGTH = "length"  # max_tokens or the context's end cut it off
    SCORED = "scored"  # nothing was generated: a given text's log-probability
    ERROR = "error"  # the request failed or its stream died; never an answer


@dataclass(frozen=True)
class Completion:
    """One sample, exactly as generated, or one scored continuation (`finish` is then `scored`).

    Attributes:
        index: which sample of its question, or which of the continuations.
        text: exactly as generated; stop strings are cut off, special tokens left out.
        prompt_tokens, completion_tokens: counts by the engine or the server.
        logprob: sum of the tokens' log-probabilities (nats) under the distribution before temperature;
            None where a server does not tell.
        seconds: wall time of this sample's share of its batch.
        finish: why it ended.
        error: what went wrong, where `finish` is `error`.
    """

    index: int
    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    logprob: float | None = None
    seconds: float = 0.0
    finish: Finish = Finish.STOP
    error: str | None = None


# --- what a measurement says ------------------------------------------------------------------------


class Status(StrEnum):
    """What became of one answer. All five are counted and shown."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSABLE = "unparsable"  # no answer found in the text; counts against accuracy
    TRUNCATED = "truncated"  # cut off before it ended; counts against accuracy
    ERROR = "error"  # the request failed; left out of the denominator, which is shown


@dataclass(frozen=True)
class Outcome:
    """What became of one question.

    Attributes:
        id: the question's id.
        status: for several samples graded apart, the status of most of them.
        score: 1 or 0; for several samples graded apart, their mean; NaN-free, None for an error.
        answer: the parsed answer, or None.
        target: the right answer.
        samples: number of completions behind it, failed ones left out.
        text: what was generated, exactly; for a vote the first sample that gave the winning answer.
    """

    id: str
    status: Status
    score: float | None
    answer: str | None
    target: str
    samples: int = 1
    text: str = ""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, and the method that gave it."""

    value: float
    low: float
    high: float
    confidence: float = 0.95
    method: str = "wilson"


@dataclass(frozen=True)
class CostToMake:
    """What a System cost to make, once; `parameters` are those that were trained."""

    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    watt_hours: float = 0.0
    energy_source: str = "none"
    parameters: int = 0


@dataclass(frozen=True)
class CostToUse:
    """What one question costs, on average over the questions that were answered.

    A question's prompt is counted once for all of its samples. `flops` is None where the model's shape is
    not known, as behind a server.
    """

    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    flops: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Result:
    """One System measured on one split of one task."""

    system: str  # system_hash
    task: str  # the task's name
    task_hash: str  # its settings and questions
    split: str
    score: Interval
    outcomes: tuple[Outcome, ...]
    counts: tuple[tuple[str, int], ...]  # (status, how many), all five
    cost_to_make: CostToMake
    cost_to_use: CostToUse
    metrics: tuple[tuple[str, float], ...] = ()  # macro_f1, pass@k, majority@k, …
    notes: tuple[str, ...] = ()  # what a reader must know: dropped exemplars, failed requests, …

    @property
    def total(self) -> int:
        """The accuracy's denominator: questions that got an answer, good or bad."""
        return sum(outcome.score is not None for outcome in self.outcomes)

    def metric(self, name: str) -> float:
        """One of `metrics` by its name."""
        return dict(self.metrics)[name]


def text_hash(text: str) -> str:
    """16 hexadecimal digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
