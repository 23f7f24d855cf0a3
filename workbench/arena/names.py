"""Whether an answer says whose it is: a vote on it is not blind."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from workbench.catalogue import Entry

FAMILIES = (
    "smollm", "chatgpt", "gpt", "claude", "gemini", "gemma", "llama", "qwen", "mistral", "mixtral", "phi",
    "falcon", "deepseek", "olmo", "granite", "grok", "kimi", "glm", "vicuna", "zephyr", "command r",
)  # fmt: skip
"""Names that models give themselves."""

MAKERS = (
    "hugging face", "huggingface", "openai", "anthropic", "google", "deepmind", "microsoft", "meta", "alibaba",
    "mistral ai", "deepseek", "ai2", "allen institute", "ibm", "nvidia", "xai", "moonshot",
)  # fmt: skip
"""Names of those who make models."""


def _one_of(words: Iterable[str]) -> str:
    """Any of the words, whole, with the version behind it, as in SmolLM2-135M."""
    return rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?:[-\d]\S*)?(?!\w)"


_SELF = re.compile(
    rf"\b(?:I am|I['’]m|my name is|named|called|known as)\b[^.!?\n]{{0,80}}?{_one_of(FAMILIES)}"
    rf"|\b(?:made|created|trained|developed|built|designed) by\b[^.!?\n]{{0,40}}?{_one_of(MAKERS)}",
    re.IGNORECASE,
)


def names_itself(text: str, players: Iterable[Entry]) -> bool:
    """Whether an answer names one of the players, or says that it is some model or some maker's.

    Args:
        text: the answer.
        players: whose labels, bases, adapters and families count wherever they stand in it.
    """
    names = {name for entry in players for name in _names(entry)}
    own = re.compile(_one_of(sorted(names)), re.IGNORECASE)
    return bool(own.search(text) or _SELF.search(text))


def _names(entry: Entry) -> set[str]:
    """The label, the base with and without its owner or folder, the adapter's folder, the base's family."""
    base = PurePosixPath(entry.model.base).name
    adapter = getattr(entry.model, "adapter", None)
    family = re.match(r"[a-z]+", base.lower())
    names = {entry.label, entry.model.base, base, PurePosixPath(adapter).name if adapter else base}
    if family and family[0] in FAMILIES:
        names.add(family[0])
    return {name for name in names if len(name) > 2}
