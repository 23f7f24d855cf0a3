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


_SPEAKER = "AI|assistant|chatbot|language model"
# Of the speaker alone: Claude Monet, the golden ratio phi and what Google has built are no model's own name.
_SELF = re.compile(
    rf"\b(?:I am|I['’]m|my name is|call me|(?:I was|{_SPEAKER}) (?:named|called|known as))\b"
    rf"[^.!?\n]{{0,80}}?{_one_of(FAMILIES)}"
    rf"|\b(?:I|me|{_SPEAKER})\b[^.!?\n]{{0,80}}?\b(?:made|created|trained|developed|built|designed) by\b"
    rf"[^.!?\n]{{0,40}}?{_one_of(MAKERS)}",
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
    base = _own_name(entry.model.base)
    adapter = getattr(entry.model, "adapter", None)
    family = re.match(r"[a-z]+", base.lower())
    names = {entry.label, entry.model.base, base, _own_name(adapter) if adapter else base}
    if family and family[0] in FAMILIES:
        names.add(family[0])
    return {name for name in names if len(name) > 2}


def _own_name(path: str) -> str:
    """A path's last part; of weights that a run made, in runs/<id>/adapter, the run's id."""
    last = PurePosixPath(path)
    return last.parent.name if last.name in ("adapter", "model", "reward_model") else last.name
