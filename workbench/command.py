"""From a Config dataclass to a command line (tyro): the flags, their types and their help are the Config's own.

A nested Config that is `Flat` brings its flags without a prefix, so that `workbench lora --rank 16` reads as
one expects. Where two would bring the same flag, all but one keep their field's name: `--prompt-tuning.tokens`.
"""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from tyro.conf import arg

from workbench.errors import UserError
from workbench.inert import visible

T = TypeVar("T")
Flat = Annotated[T, arg(name="")]
"""`lora: Flat[LoraConfig]`: a nested Config whose flags have no prefix."""


def run_command(main: Callable[[Any], Any], config: type[Any], arguments: Sequence[str], name: str) -> int:
    """Parse the arguments into the Config, call `main` with it, and return the exit status.

    0 is success, 2 what the user can mend (said in one line, without a traceback), 130 an interrupt. Any other
    exception is a bug and shows its traceback.
    """
    import tyro

    try:
        parsed = tyro.cli(
            config,
            prog=name,
            args=list(arguments),
            description=_summary(config),
            config=(tyro.conf.EnumChoicesFromValues,),
        )
        main(parsed)
    except UserError as error:
        print(f"{name}: {visible(error)}", file=sys.stderr)  # a server's words may be in it
        return 2
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; the same command goes on from here.", file=sys.stderr)
        # Where Ctrl-C came inside an exec, as dataclasses make their methods by, `python -m` would still end by
        # SIGINT: CPython remembers it until the next exec begins.
        exec("")
        return 130
    except BrokenPipeError:  # the reader of our output has gone (`| head`)
        sys.stderr.close()
        return 1
    return 0


def command_typed() -> str:
    """The command line of this process, for reports; a recipe's file, or `-m recipes`, is `workbench` there."""
    program = Path(sys.argv[0]).resolve()
    words = [Path(sys.argv[0]).name]
    if program.suffix == ".py" and program.parent == Path(__file__).resolve().parents[1] / "recipes":
        words = ["workbench"] if program.stem == "__main__" else ["workbench", program.stem]
    return shlex.join([*words, *sys.argv[1:]])


def run_script(main: Callable[[Any], Any], config: type[Any], file: str) -> None:
    """What `python recipes/<name>.py` does: the same as `workbench <name>`."""
    # Python puts the script's folder first on the path, where recipes/evaluate.py would pass for another package.
    folder = str(Path(file).resolve().parent)
    sys.path[:] = [entry for entry in sys.path if str(Path(entry or ".").resolve()) != folder]
    name = Path(file).stem
    sys.exit(run_command(main, config, sys.argv[1:], name))


def _summary(config: type[Any]) -> str:
    module = sys.modules[config.__module__]
    return (module.__doc__ or "").strip()
