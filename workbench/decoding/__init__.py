"""From completions to one answer: how each decode of `types.py` asks an engine, and what it makes of it."""
