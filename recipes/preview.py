"""Show training examples as the model will see them, with what of them is learned, before anything is trained.

On a terminal what is learned is green, what is only read is dim, and control tokens are underlined; elsewhere,
and with NO_COLOR, what is learned stands in ⟦…⟧. Control characters are shown as \\x1b and the like, and so is the
first character of text that only looks like a control token.
"""

from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from workbench.command import Flat, run_script
from workbench.engines.encode import Encoder
from workbench.errors import check_range
from workbench.models import EMBEDDED, load_tokenizer
from workbench.prompts import load_prompt, with_values
from workbench.session import pairs
from workbench.tasks import load_task
from workbench.training.config import Data, Training
from workbench.types import Model

_STREAMED = 1000  # examples of a stream that are looked at


@dataclass(frozen=True)
class Config:
    """What to show. The flags are those that a tuning recipe takes too.

    Attributes:
        count: how many examples are shown.
        task: whose practice split is learned.
        task_args: the task's own settings, as name=value.
        model: whose chat template and tokens: smollm2-135m-instruct (embedded), a local folder or a Hub id.
        revision: of a Hub id.
        prompt: a prompt's name or a .yaml file; by default the task's own.
        prompt_args: values of the prompt's own variables, as name=value.
        examples: how many examples to learn from, the first ones; by default all.
        max_length: examples with more tokens are left out or cut (too_long), and counted.
        training_seed: the order in which a stream is read.
        data: what is learned from; by default the task's practice split.

    Raises:
        UserError: a value is out of range; the message names the field.
    """

    count: int = 3
    task: str = "arithmetic"
    task_args: tuple[str, ...] = ()
    model: str = EMBEDDED
    revision: str | None = None
    prompt: str | None = None
    prompt_args: tuple[str, ...] = ()
    examples: int | None = None
    max_length: int = 1024
    training_seed: int = 0
    data: Flat[Data] = field(default_factory=Data)

    def __post_init__(self) -> None:
        check_range("count", self.count, 0, 10**6)
        self.training()

    def training(self) -> Training:
        """What a tuning recipe with these flags trains on."""
        return Training(
            steps=1,  # which a stream needs; nothing is trained
            examples=self.examples,
            max_length=self.max_length,
            training_seed=self.training_seed,
            data=self.data,
        )


def main(config: Config) -> Any:
    """Print the examples and a summary; returns the `Counts` of all examples."""
    from workbench.training.data import encoded  # here and below: torch would slow --help down
    from workbench.training.show import inert, show
    from workbench.training.sources import Counts, fitted, nothing_fits, source_of
    from workbench.training.stream import Stream

    training, task = config.training(), load_task(config.task, pairs("--task-args", config.task_args))
    prompt = with_values(load_prompt(config.prompt or task.prompt), pairs("--prompt-args", config.prompt_args))
    encoder = Encoder(load_tokenizer(Model(config.model, config.revision)))
    if config.data.stream:
        examples = islice(Stream(encoder, training).examples(), _STREAMED)
    else:
        examples = (example for _, example in encoded(encoder, prompt, task, training))
    source = inert(source_of(config.data)) if config.data.data else f"{task.name}, practice split"
    counts = Counts()
    for example in examples:
        kept = fitted(example, training)
        counts.add(example, kept)
        if kept is not None and counts.learned <= config.count:
            read, learned = len(kept.ids) - len(kept.learned), len(kept.learned)
            print(f"--- example {counts.learned} of {source}: {read} tokens read, {learned} learned ---")
            show(encoder, kept)
    total = counts.learned + counts.too_long
    first = f"the first {total:,} examples" if config.data.stream else f"{total:,} examples"
    print(
        f"{counts.learned:,} of {first} of {source} are learned from: {counts.tokens:,} tokens, "
        f"{counts.learned_tokens:,} of them learned. The longest example has {counts.longest:,} tokens."
    )
    for line in counts.too_long_lines(training):
        print(line)
    if not counts.learned:
        raise nothing_fits(training)
    return counts


if __name__ == "__main__":
    run_script(main, Config, __file__)
