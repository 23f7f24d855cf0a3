"""List the prompts by what they ask for, or show one as a model reads it: `workbench prompts show NAME`."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional

from workbench.command import run_script
from workbench.engines.encode import Encoder
from workbench.errors import UserError, unknown_name
from workbench.models import EMBEDDED, load_tokenizer
from workbench.prompts import describe, load_prompt, prompt_names, purpose_of, render, render_answer, with_values
from workbench.session import pairs
from workbench.tasks import load_task
from workbench.types import Example, Model, Prompt, Request


@dataclass(frozen=True)
class Config:
    """What to show, on which question, for which model.

    Attributes:
        action: `list`, or `show` with a prompt's name.
        name: a prompt's name, or a .yaml file.
        task: the task whose first practice question is shown.
        task_args: the task's own settings, as name=value.
        model: whose chat template and tokens: smollm2-135m-instruct (embedded), a local folder or a Hub id.
        prompt_args: values of the prompt's own variables, as name=value.
    """

    action: Annotated[str, Positional] = "list"
    name: Annotated[str, Positional] = ""
    task: str = "arithmetic"
    task_args: tuple[str, ...] = ()
    model: str = EMBEDDED
    prompt_args: tuple[str, ...] = ()


def main(config: Config) -> list[str]:
    """Print the list or the one prompt, and return the names that were shown."""
    if config.action not in ("list", "show"):
        hint = "`workbench prompts show NAME` shows one prompt."
        raise unknown_name("action", config.action, ("list", "show"), hint)
    if config.action == "show":
        if not config.name:
            raise UserError(f"show takes a prompt's name or a .yaml file. There are: {', '.join(prompt_names())}.")
        _show(config.name, config)
        return [config.name]
    if config.name:
        raise UserError(f"list takes no name; `workbench prompts show {config.name}` shows one prompt.")
    return _list()


def _list() -> list[str]:
    by_purpose: dict[str, list[str]] = {}
    for name in prompt_names():
        by_purpose.setdefault(purpose_of(name), []).append(name)
    for purpose, names in sorted(by_purpose.items()):
        print(f"{purpose}:")
        for name in names:
            print(f"    {name}\n        {describe(name)}")
    print("`workbench prompts show NAME` shows one as a model reads it. Prompts of one purpose can be exchanged.")
    return [name for _, names in sorted(by_purpose.items()) for name in names]


def _show(name: str, config: Config) -> None:
    prompt = with_values(load_prompt(name), pairs("--prompt-args", config.prompt_args))
    task = load_task(config.task, pairs("--task-args", config.task_args))
    example = task.practice[0]
    print(f"{prompt.name}: {describe(name)}")
    print(f"purpose {purpose_of(name)}, style {prompt.style}, stop strings {list(prompt.stop) or 'none'}\n")
    _show_variables(prompt, example)
    messages = render(prompt, example)  # what is missing is told before a tokenizer is loaded

    encoder = Encoder(load_tokenizer(Model(config.model)))
    request = Request(example.id, messages, style=prompt.style)
    tokens = encoder.encode(request)
    print(f"\n--- question {example.id} of {task.name}'s practice split, as {config.model} reads it ---")
    print(_text(encoder, tokens))
    own = len(encoder.encode_text(""))  # what the tokenizer puts before any text
    print("--- tokens ---")
    for message in messages:
        print(f"{len(encoder.encode_text(message.content)) - own:6}  {message.role}")
    print(f"{len(tokens):6}  the whole" + (", with the chat template" if prompt.style == "chat" else ""))
    print("--- the answer, as the shot teaches it ---")
    try:
        answer = render_answer(prompt, example)
    except UserError as error:  # the question can be asked all the same
        print(error)
        return
    _, taught = encoder.encode_completion(request, answer)
    print(f"{_text(encoder, taught)}\n{len(taught):6}  tokens, with the one that ends the answer")


def _show_variables(prompt: Prompt, example: Example) -> None:
    defaults, own = dict(prompt.defaults), dict(example.variables)
    width = max(map(len, prompt.variables))
    for name in prompt.variables:
        if name == "input" or name in own:
            source = "the example's own"
        elif name in defaults:
            source = f"unless the example has its own: {defaults[name]}"
        else:
            source = "to be given by --prompt-args"
        print(f"    {name:<{width}}  {source}")


def _text(encoder: Encoder, tokens: list[int]) -> str:
    """Tokens as text, control tokens too."""
    text: str = encoder.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


if __name__ == "__main__":
    run_script(main, Config, __file__)
