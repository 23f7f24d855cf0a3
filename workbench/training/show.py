"""A training example on a terminal: which of its tokens are learned, and nothing in it that a terminal obeys."""

from collections.abc import Collection
from itertools import groupby

from rich.console import Console
from rich.text import Text

from workbench.engines.encode import Encoder
from workbench.engines.packing import Tokens


def show(encoder: Encoder, example: Tokens) -> None:
    """Print an example.

    In colours what is learned is green, what is only read is dim, and control tokens are underlined. Where
    standard output is no terminal, or NO_COLOR is set, what is learned stands in brackets, ⟦ and ⟧.
    """
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal or console.no_color or console.color_system is None:
        runs = [(learned, "".join(text for text, _ in texts)) for learned, texts in _runs(encoder, example)]
        print("".join(f"⟦{text}⟧" if learned else text for learned, text in runs))
        return
    shown = Text()
    for learned, texts in _runs(encoder, example):
        for text, control in texts:
            shown.append(text, ("green" if learned else "dim") + (" underline" if control else ""))
    console.print(shown)


def _runs(encoder: Encoder, example: Tokens) -> list[tuple[bool, list[tuple[str, bool]]]]:
    """The example cut where learning begins or ends: (learned, [(text, whether a control token)])."""
    tokenizer = encoder.tokenizer
    added = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    control = added | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    learned = set(example.learned)
    runs = []
    for is_learned, places in groupby(range(len(example.ids)), key=learned.__contains__):
        texts: list[tuple[str, bool]] = []
        for is_control, ids in groupby((example.ids[place] for place in places), key=control.__contains__):
            if is_control:
                texts += [(control[number], True) for number in ids]
            else:
                texts.append((inert(encoder.decode(list(ids)), control.values()), False))
        runs.append((is_learned, texts))
    return runs


def inert(text: str, control: Collection[str] = ()) -> str:
    """Text with what a terminal obeys, or a reader would take for a bracket or a control token, as \\x1b."""
    for token in control:
        text = text.replace(token, _escape(token[0]) + token[1:])
    return "".join(c if c == "\n" or (c.isprintable() and c not in "⟦⟧") else _escape(c) for c in text)


def _escape(character: str) -> str:
    """A character by its number."""
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"
