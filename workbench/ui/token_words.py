"""Tokens and their speed in words, for every pane that tells them."""

_SHORTEST = 0.05  # seconds in which a speed is told


def counted(tokens: int) -> str:
    """A number of tokens."""
    return f"{tokens:,} token{'s' if tokens != 1 else ''}"


def speed(tokens: int, seconds: float, first: int = 1) -> str:
    """Tokens per second, by the seconds since the `first` ones came; empty where too few or too fast to tell."""
    behind = tokens - first
    return f"{behind / seconds:,.1f} tokens/s" if seconds >= _SHORTEST and behind > 0 else ""
