"""Text that a person is to see, with what cannot be seen, or what a terminal would obey, spelled out."""

import re
import unicodedata

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format, surrogate, and the separators of lines
_KEPT = "\n\t\u200c\u200d"
_SURROGATE = re.compile("[\ud800-\udfff]")


def visible(text: object) -> str:
    """Text with what cannot be seen spelled out: control characters, direction marks, lone surrogates.

    Line ends and tabs stay, and so do the joiners that emoji and several scripts are written with.
    """
    return "".join(
        f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) in _HIDDEN and c not in _KEPT else c for c in str(text)
    )


def is_utf8(text: str) -> bool:
    """Whether UTF-8 has bytes for the text: it holds no lone surrogate, half a character."""
    return not _SURROGATE.search(text)
