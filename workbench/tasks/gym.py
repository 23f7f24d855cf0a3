"""Any generator of reasoning-gym (Open-Thought, Apache-2.0, arXiv 2505.24760), judged by its own scorer.

`gym dataset=products max_digits=2`: arguments that are not `Config`'s own are the generator's settings. Each
split is drawn from seeds of its own, and of these only the questions whose content hash puts them in that
split are kept, so that a question that comes up under two seeds is still in one split.
"""

import re
from dataclasses import asdict, dataclass, fields
from typing import Any, get_type_hints

import yaml

from workbench.errors import UserError, check_range, unknown_name
from workbench.tasks.base import Grade, Task, make_task, split_of
from workbench.tasks.numbers import find_number, read_number
from workbench.tasks.settings import convert, unknown_argument
from workbench.types import Example

SEEDS = 1_000_000  # seeds that a split has for itself; a generator's question i is drawn with seed + i
PATIENCE = 5_000  # draws in a row that bring nothing new, after which the generator counts as used up
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_SAID = re.compile(r"\banswer(?: is|\s?:)[ \t]*", re.IGNORECASE)


@dataclass(frozen=True)
class Config:
    """Which generator, and how much of it.

    Attributes:
        dataset: the generator's name in reasoning-gym.
        practice, dev, test: questions in each split.
        seed: another seed draws other questions.
        options: the generator's own settings, as (name, text).
    """

    dataset: str
    practice: int = 400
    dev: int = 100
    test: int = 200
    seed: int = 0
    options: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for name in ("practice", "dev", "test"):
            check_range(name, getattr(self, name), 1, SEEDS // 10)
        check_range("seed", self.seed, 0, 1000)  # times 3 million stays below numpy's limit of 2**32


def load(config: Config) -> Task:
    """Draw the questions.

    Raises:
        UserError: reasoning-gym is not installed, it has no such generator or setting, or the generator does
            not give that many different questions.
    """
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise UserError(
            "The task 'gym' needs the package reasoning-gym, which is not installed. "
            "Type: pip install 'llm-workbench[gym]'"
        ) from None
    if config.dataset not in DATASETS:
        raise unknown_name("reasoning-gym generator", config.dataset, DATASETS)
    options = _options(config, DATASETS[config.dataset][1])
    entries: dict[str, dict[str, Any]] = {}
    splits = {}
    for position, split in enumerate(("practice", "dev", "test")):
        start = (3 * config.seed + position) * SEEDS
        try:
            dataset = reasoning_gym.create_dataset(config.dataset, seed=start, size=SEEDS, **options)
        except (AssertionError, ValueError) as error:
            raise UserError(f"{config.dataset} refuses its settings: {error}") from error
        splits[split] = _draw(config.dataset, dataset, split, getattr(config, split), entries)

    def grade(text: str, example: Example) -> Grade:
        answer = find_answer(text, example.target)
        if not example.id:  # asked by whom the right answer is kept from: read, and not scored
            return Grade(answer, False)
        # A question from elsewhere has no entry; its target is all that the scorer then knows.
        entry = entries.get(example.id, {"question": example.input, "answer": example.target, "metadata": {}})
        return Grade(answer, answer is not None and dataset.score_answer(answer, entry) >= 1)

    settings = asdict(config) | {"options": options}
    return make_task("gym", settings=settings, splits=splits, grade=grade, prompt="question")


def find_answer(text: str, target: str) -> str | None:
    """The answer that a text gives, for the scorer and for votes.

    It stands in the last <answer>…</answer>; else, for a target that is a number, it is the number that the
    text gives; else what follows the last "answer is" or "answer:", or the whole text.
    """
    tagged: list[str] = _TAGGED.findall(text)
    given = tagged[-1] if tagged else text
    if read_number(target) is not None:
        return find_number(given)
    if not tagged:
        given = _SAID.split(given)[-1]
    return given.strip().removesuffix(".") or None


def _options(config: Config, generator: type) -> dict[str, Any]:
    """The generator's settings, typed as its own config dataclass says."""
    hints = get_type_hints(generator)
    known = [f.name for f in fields(generator) if f.name not in ("seed", "size")]
    options = {}
    for name, text in config.options:
        if name not in known:
            raise unknown_argument(f"gym dataset={config.dataset}", name, known)
        if hints[name] in (int, float, str, bool):
            options[name] = convert("gym", name, text, hints[name])
        else:
            options[name] = yaml.safe_load(text)  # lists and mappings, as in [1, 2]
    return options


def _draw(
    name: str, dataset: Any, split: str, size: int, entries: dict[str, dict[str, Any]]
) -> tuple[Example, ...]:
    examples: list[Example] = []
    fruitless = 0
    for index in range(SEEDS):
        entry = dataset[index]
        example = Example.make(entry["question"], str(entry["answer"]))
        fruitless += 1
        if split_of(example) == split and example.id not in entries:
            fruitless = 0
            entries[example.id] = entry
            examples.append(example)
        if len(examples) == size:
            return tuple(examples)
        if fruitless > PATIENCE:
            break
    raise UserError(
        f"{name} gives only {len(examples)} different questions for {split} with these settings, not {size}. "
        f"Ask for fewer ({split}=…), or choose settings with more."
    )
