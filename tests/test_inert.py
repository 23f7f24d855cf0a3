"""Text that is shown, and text that UTF-8 has bytes for."""

from hypothesis import given
from hypothesis import strategies as st

from workbench.inert import is_utf8, visible

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # surrogates too


@given(ANY_TEXT)
def test_utf8_is_what_can_be_encoded(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        assert not is_utf8(text)
    else:
        assert is_utf8(text)


@given(ANY_TEXT)
def test_what_is_shown_can_be_written_and_holds_no_control_character(text: str) -> None:
    shown = visible(text)
    assert is_utf8(shown)
    assert "\x1b" not in shown and "\r" not in shown and "\u202e" not in shown
