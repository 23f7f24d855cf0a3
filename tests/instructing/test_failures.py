"""Requests that failed: which would fail again, which stop a run, and how they are counted."""

import pytest

from workbench.errors import UserError
from workbench.instructing.failures import FILTERED, NO_TEXT, REFUSED, TOO_LONG, failures, lasting
from workbench.types import Completion, Finish


def failed(error: str) -> Completion:
    return Completion(0, "", finish=Finish.ERROR, error=error)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("HTTP 400: unknown role", REFUSED),
        ("HTTP 400: This model's maximum context length is 2048 tokens.", TOO_LONG),
        ("HTTP 413: body too large", REFUSED),
        ("HTTP 400: The response was filtered due to content management policy", FILTERED),
        ("The sample ended with 'content_filter' and text.", FILTERED),
        ("The sample ended with 'tool_calls' and no text.", NO_TEXT),
        ("the prompt has 3000 tokens and needs 1 more; the model's context is 2048", TOO_LONG),
        ("HTTP 503: busy (tries: 6)", None),
        ("HTTP 500: it says HTTP 400: content filter (tries: 6)", None),
        ("HTTP 404: no such model", None),
        ("HTTP 504: the request took too long (tries: 6)", None),
        ("ReadTimeout (tries: 6)", None),
        ("The sample ended with 'abort' and text.", None),
        ("The server gave fewer samples than were asked for.", None),
        ("ConnectionError: gone", None),
    ],
)
def test_what_would_fail_again_is_known_by_its_message(error: str, reason: str | None) -> None:
    assert lasting(error) == reason


def test_what_failed_for_good_is_counted() -> None:
    found = failures([Completion(0, "yes"), failed("HTTP 400: no"), failed("HTTP 422: no")], "paths")
    assert dict(found) == {REFUSED: 2}


def test_what_may_pass_stops_the_run() -> None:
    every = [Completion(0, "yes"), failed("HTTP 400: no"), failed("ReadTimeout.")]
    message = r"1 of 3 requests failed \(paths\); the first: ReadTimeout\. .* the same command asks these again"
    with pytest.raises(UserError, match=message):
        failures(every, "paths")


def test_where_all_failed_the_first_is_told_unless_something_was_answered_before() -> None:
    every = [failed("HTTP 400: no."), failed("HTTP 413: b")]
    with pytest.raises(UserError, match=r"^All 2 requests failed \(paths\); the first: HTTP 400: no\.$"):
        failures(every, "paths")
    assert failures(every, "paths", answered=True) == {REFUSED: 2}
    assert failures([], "paths") == {}
