"""Talk with a model in the terminal: its answers come as they are generated, and Ctrl-C stops one.

Without a terminal every line of standard input is a question, and Ctrl-C ends all. /help in the conversation tells
the commands.
"""

import sys
from dataclasses import dataclass, field

from workbench.chat_terminal import piped_lines, talk, typed_lines
from workbench.chatting import ChatFlags, freed
from workbench.command import Flat, run_script
from workbench.conversation import Conversation
from workbench.errors import UserError


@dataclass(frozen=True)
class Config:
    """Who is talked with.

    Attributes:
        chat: who answers, and how answers are drawn.
        quiet: no line about tokens and speed after an answer.
    """

    chat: Flat[ChatFlags] = field(default_factory=ChatFlags)
    quiet: bool = False


def main(config: Config) -> None:
    """Talk until there are no more lines.

    Raises:
        UserError: the model cannot be had, or some lines that nobody typed failed.
        SystemExit: with status 130, at Ctrl-C.
    """

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def out(piece: str) -> None:
        print(piece, end="", flush=True)

    speaker = config.chat.speaker()
    conversation = Conversation(config.chat.system_prompt)
    typed = sys.stdin.isatty() and sys.stdout.isatty()
    with freed(speaker):
        try:
            version = speaker.engine.version  # before the first question is typed
            if typed and not config.quiet:
                tell(f"{config.chat.model.model} ({version}). /help tells the commands.")
            read = typed_lines(tell) if typed else piped_lines(sys.stdin.buffer)
            failed = talk(speaker, conversation, read, out, tell, config.quiet, typed)
        except KeyboardInterrupt:
            tell("\nInterrupted.")
            raise SystemExit(130) from None
    if failed and not typed:
        raise UserError(f"{failed} {'line' if failed == 1 else 'lines'} failed; what went wrong is told above.")


if __name__ == "__main__":
    run_script(main, Config, __file__)
