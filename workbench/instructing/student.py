"""How made data asks a task's questions: with the prompt that the student will be asked them with."""

from workbench.errors import UserError
from workbench.prompts import render
from workbench.types import Example, Message, Prompt


def check_learnable(prompt: Prompt) -> None:
    """See that what the prompt asks can be the prompt of a row that is learned.

    Raises:
        UserError: the prompt begins the answer, or shows exemplars.
    """
    if prompt.messages[-1].role == "assistant":
        raise UserError(
            f"The prompt {prompt.name!r} begins the answer itself, and made data hold whole answers: take one "
            "whose last message is the user's."
        )
    if prompt.shots is not None:
        raise UserError(f"The prompt {prompt.name!r} has exemplars, and made data are learned without any.")


def asked(prompt: Prompt, example: Example) -> str | tuple[Message, ...]:
    """A question as a made row's prompt: the conversation, or the text of a prompt of the style `text`."""
    messages = render(prompt, example)
    if prompt.style == "text":
        return "".join(message.content for message in messages)
    return messages
