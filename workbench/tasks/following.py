"""Following: a request with one rule for the form of the answer, and the rule's own check as the grader.

In the spirit of IFEval (Zhou et al. 2023, arXiv 2311.07911), to whose 25 kinds of verifiable instructions these
twenty are close. It departs from IFEval in that a seeded generator draws the questions from lists of its own
(`following.yaml`), one rule each. Whether an answer is true or good is not judged.

A target is an answer that follows the rule, put together from facts about the topic, so that tuning and exemplars
show the form. An answer is the whole text, so that a majority vote finds little to count: nearly every sample is
an answer of its own, but under `yes_no`.

Some rules are easy to follow without an answer. Of the 500 questions of practice and dev, "Yes." is right for
18.6 %, "song" for 18.2 %, "I do not know." for 12.4 %; the question itself, said back, for none.
"""

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from workbench.errors import UserError, check_range, unknown_name
from workbench.tasks.base import Grade, Task, make_task, split_of
from workbench.tasks.graders import NO_ANSWER
from workbench.tasks.rules import RULES, normal, words
from workbench.types import Example

WORDS = Path(__file__).with_name("following.yaml")
PATIENCE = 20_000  # draws in a row that bring nothing new, after which the settings count as used up

FIRST = ("Today", "Well", "Sure", "First", "Here", "Yes")
LAST = ("That is all", "I hope this helps", "Have a nice day", "Thank you for reading", "Ask me for more")
KEYS = ("topic", "summary", "fact", "detail", "advice", "example")
COMMON = ("the", "and", "is", "it", "are", "can", "people", "very", "many")


@dataclass(frozen=True)
class Config:
    """Which rules, and how many questions.

    Attributes:
        rules: the rules that are drawn from, each as often as the others as long as it has new questions (`yes_no`
            has fewest); `all` is every one.
        practice, dev, test: questions in each split.
        seed: another seed draws other questions; the first ones of a split do not depend on its size.

    Raises:
        UserError: a value is out of range, or there is no such rule; the message names the field.
    """

    rules: tuple[str, ...] = ("all",)
    practice: int = 400
    dev: int = 100
    test: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.names():
            if name not in RULES:
                raise unknown_name("rule", name, RULES, "rules=all takes every one.")
        if len(set(self.rules)) < len(self.rules):
            raise UserError(f"rules is {', '.join(self.rules)}; each may be there once.")
        for name in ("practice", "dev", "test"):
            check_range(name, getattr(self, name), 1, 10**6)
        check_range("seed", self.seed, 0, 2**63 - 1)

    def names(self) -> tuple[str, ...]:
        """The rules, each by its name."""
        return tuple(RULES) if self.rules == ("all",) else self.rules


def grade(text: str, example: Example) -> Grade:
    """The text without white space at its lines' ends, and whether it follows the example's rule.

    A text without a word is no answer. The question shows what some rules want, as a title: a text with copies of
    the question in it must follow the rule without them too, and have words.
    """
    answer, about = normal(text), dict(example.variables)
    if not words(answer):
        return NO_ANSWER
    rule = RULES[about["rule"]]
    own = normal(without_copies(answer, example.input))
    on_its_own = about["rule"] == "repeat" or own == answer or rule(own, about["value"])
    return Grade(answer, bool(words(own)) and on_its_own and rule(answer, about["value"]))


def without_copies(text: str, question: str) -> str:
    """The text less each copy of the question, in any case, with any marks and white space between its words."""
    asked = r"\W+".join(re.findall(r"\w+", normal(question)))
    tail = re.escape(re.split(r"\w", normal(question))[-1])  # what the question ends with: a full stop, >>.
    return re.sub(rf"(?<!\w){asked}(?!\w)(?:{tail})?", "", text, flags=re.IGNORECASE)


def load(config: Config) -> Task:
    """Draw questions until every split has its size.

    Raises:
        UserError: the settings do not give that many different questions.
    """
    sizes = {"practice": config.practice, "dev": config.dev, "test": config.test}
    splits: dict[str, list[Example]] = {name: [] for name in sizes}
    rng = random.Random(config.seed)
    seen: set[str] = set()
    fruitless = 0
    while any(len(splits[name]) < size for name, size in sizes.items()):
        example = draw(rng, rng.choice(config.names()))
        split = split_of(example)
        if example.id in seen or len(splits[split]) == sizes[split]:
            fruitless += 1
            if fruitless > PATIENCE:
                short = next(name for name, size in sizes.items() if len(splits[name]) < size)
                raise UserError(
                    f"These settings give only {len(splits[short])} different questions for {short}, not "
                    f"{sizes[short]}. Ask for fewer, or name more rules."
                )
            continue
        fruitless = 0
        seen.add(example.id)
        splits[split].append(example)
    done = {name: tuple(examples) for name, examples in splits.items()}
    settings = asdict(config) | {"rules": config.names()}
    return make_task(
        "following", settings=settings, splits=done, grade=grade, prompt="following", max_tokens=256, kind="rule"
    )


# --- one question -----------------------------------------------------------------------------------


def draw(rng: random.Random, rule: str) -> Example:
    """A question; its variables are the rule's name and value, its target is an answer that follows it."""
    lists = _lists()
    topic = rng.choice(list(lists["topics"]))
    opening, *others = lists["topics"][topic]
    facts = [opening, *rng.sample(others, len(others))]
    request = rng.choice(lists["questions" if rule == "yes_no" else "requests"]).format(topic=topic)
    value = str(_VALUES[rule](rng, facts, request)) if rule in _VALUES else ""
    target = _ANSWERS[rule](facts, value, topic)
    asked = rng.choice(lists["rules"][rule]).format(value=value)
    return Example.make(f"{request} {asked}", target, variables={"rule": rule, "value": value})


@cache
def _lists() -> Mapping[str, Any]:
    found: Mapping[str, Any] = yaml.safe_load(WORDS.read_text(encoding="utf-8"))
    return found


def _some(facts: Sequence[str]) -> str:
    return " ".join(facts[:3])


def _one_or_two(rng: random.Random, facts: Sequence[str], request: str) -> str:
    """A longer word of the first fact, or one of each of the first two."""
    shown = facts[: rng.randint(1, 2)]
    return ", ".join(rng.choice([word for word in words(fact) if len(word) > 3]) for fact in shown)


def _keywords(facts: Sequence[str], value: str, topic: str) -> str:
    wanted = value.split(", ")
    return " ".join(fact for fact in facts if any(word in words(fact) for word in wanted))


def _avoiding(facts: Sequence[str], value: str, topic: str) -> str:
    return " ".join([fact for fact in facts if value not in words(fact)][:3])


def _at_most(facts: Sequence[str], value: str, topic: str) -> str:
    kept: list[str] = []
    for fact in facts:
        if len(words(" ".join([*kept, fact]))) <= int(value):
            kept.append(fact)
    return " ".join(kept)


def _at_least(facts: Sequence[str], value: str, topic: str) -> str:
    kept = 1
    while len(words(" ".join(facts[:kept]))) < int(value):
        kept += 1
    return " ".join(facts[:kept])


def _lines(facts: Sequence[str], mark: Callable[[int], str], value: str) -> str:
    return "\n".join(f"{mark(place)} {fact}" for place, fact in enumerate(facts[: int(value)], start=1))


def _object(facts: Sequence[str], value: str, topic: str) -> str:
    return json.dumps(dict(zip(value.split(", "), facts, strict=False)))


_VALUES: dict[str, Callable[[random.Random, Sequence[str], str], object]] = {
    "begin": lambda rng, facts, request: rng.choice(FIRST),
    "end": lambda rng, facts, request: rng.choice(LAST),
    "keywords": _one_or_two,
    "avoid": lambda rng, facts, request: rng.choice(COMMON),
    "sentences": lambda rng, facts, request: rng.randint(2, 5),
    "most_words": lambda rng, facts, request: rng.randint(4, 12) * 5,
    "least_words": lambda rng, facts, request: rng.randint(3, 7) * 5,
    "bullets": lambda rng, facts, request: rng.randint(2, 5),
    "numbered": lambda rng, facts, request: rng.randint(2, 5),
    "json": lambda rng, facts, request: ", ".join(rng.sample(KEYS, rng.randint(2, 3))),
    "repeat": lambda rng, facts, request: request,
    "paragraphs": lambda rng, facts, request: rng.randint(2, 4),
}
"""How a rule's value is drawn, where it has one."""

_ANSWERS: dict[str, Callable[[Sequence[str], str, str], str]] = {
    "begin": lambda facts, value, topic: f"{value}, this is about {topic}. {_some(facts)}",
    "end": lambda facts, value, topic: f"{_some(facts)} {value}.",
    "keywords": _keywords,
    "avoid": _avoiding,
    "sentences": lambda facts, value, topic: " ".join(facts[: int(value)]),
    "most_words": _at_most,
    "least_words": _at_least,
    "lowercase": lambda facts, value, topic: _some(facts).lower(),
    "capitals": lambda facts, value, topic: _some(facts).upper(),
    "bullets": lambda facts, value, topic: _lines(facts, lambda place: "-", value),
    "numbered": lambda facts, value, topic: _lines(facts, lambda place: f"{place}.", value),
    "yes_no": lambda facts, value, topic: "Yes.",
    "json": _object,
    "quoted": lambda facts, value, topic: f'"{_some(facts)}"',
    "no_commas": lambda facts, value, topic: _some(facts),
    "repeat": lambda facts, value, topic: f"{value}\n\n{_some(facts)}",
    "title": lambda facts, value, topic: f"<<About {topic}>>\n\n{_some(facts)}",
    "paragraphs": lambda facts, value, topic: "\n\n".join(facts[: int(value)]),
    "placeholder": lambda facts, value, topic: f"Dear [name]!\n\n{_some(facts)}",
    "postscript": lambda facts, value, topic: f"{_some(facts)}\n\nP.S. {facts[3]}",
}
"""An answer that follows the rule, of the topic's first fact and others."""
