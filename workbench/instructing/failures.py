"""Requests that failed, in data that a model makes: those that would fail again are left out, others stop the run.

A run that is written down as finished is not run again. So what may pass, as a lost connection or a server that is
too busy, may not be missing in it, and what never passes may not keep it from its end.
"""

import re
from collections import Counter
from collections.abc import Iterable

from workbench.errors import UserError
from workbench.types import Completion, Finish

REFUSED = "request refused by the server"
TOO_LONG = "request longer than the context"
FILTERED = "answer withheld by a content filter"
NO_TEXT = "answer without text"

_ONE_REQUEST = {"400", "413", "414", "422"}  # statuses that speak of one request and will not pass
_STATUS = re.compile(r"\bHTTP (\d{3}):")
_LENGTH = re.compile(r"context|maximum (?:model )?length|too many tokens|too long", re.IGNORECASE)
_FILTER = re.compile(r"content.(?:filter|management|policy)|moderation", re.IGNORECASE)


def lasting(error: str) -> str | None:
    """Why a request that failed with this message would fail again, in the words of a count; None: it may pass.

    The messages are the engines' own (`Servers`, `read_sample`, `HfEngine.unfit`), a server's words among them.
    """
    if status := _STATUS.search(error):
        if status.group(1) not in _ONE_REQUEST:
            return None
        return FILTERED if _FILTER.search(error) else TOO_LONG if _LENGTH.search(error) else REFUSED
    if error.startswith("The sample ended with "):
        return FILTERED if "'content_filter'" in error else NO_TEXT if error.endswith("no text.") else None
    return TOO_LONG if "the model's context is" in error else None


def failures(completions: Iterable[Completion], title: str, *, answered: bool = False) -> Counter[str]:
    """Those that failed for good, counted by their reasons.

    Args:
        completions: all that was drawn for one purpose.
        title: the purpose, for messages.
        answered: whether the model answered before, so that these may all have failed by themselves.

    Raises:
        UserError: some failed that may pass; or all failed, and nothing was answered before.
    """
    every = list(completions)
    failed = [(str(c.error).rstrip("."), lasting(str(c.error))) for c in every if c.finish is Finish.ERROR]
    passing = [error for error, reason in failed if reason is None]
    if passing:
        raise UserError(
            f"{len(passing)} of {len(every)} requests failed ({title}); the first: {passing[0]}. What was "
            "answered is stored; the same command asks these again."
        )
    if failed and len(failed) == len(every) and not answered:
        raise UserError(f"All {len(every)} requests failed ({title}); the first: {failed[0][0]}.")
    return Counter(reason for _, reason in failed if reason is not None)
