"""`workbench prompts`: the list by purpose, and one prompt as a model reads it, with its tokens."""

from itertools import takewhile
from pathlib import Path

import pytest

from recipes.prompts import Config, main
from workbench.engines.encode import Encoder
from workbench.errors import UserError
from workbench.models import load_tokenizer
from workbench.prompts import load_prompt, prompt_names, render
from workbench.tasks import load_task
from workbench.types import Model, Request


def shown(
    capsys: pytest.CaptureFixture[str], model: Path, name: str, *values: str, task: str = "arithmetic"
) -> str:
    assert main(Config("show", name, task=task, model=str(model), prompt_args=values)) == [name]
    return capsys.readouterr().out


def test_the_list_is_grouped_by_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(main(Config())) == prompt_names()
    lines = capsys.readouterr().out.splitlines()
    heads = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert heads == sorted(heads) and "phrasebank:" in heads
    after = lines[lines.index("phrasebank:") + 1 :]
    group = [line.strip() for line in takewhile(lambda line: line.startswith(" "), after)]
    assert {"phrasebank", "phrasebank-terse", "phrasebank-text"} <= set(group)


def test_a_prompt_as_the_model_reads_it(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = shown(capsys, tiny_model, "arithmetic")
    example = load_task("arithmetic").practice[0]
    prompt = load_prompt("arithmetic")
    encoder = Encoder(load_tokenizer(Model(str(tiny_model))))
    [message] = messages = render(prompt, example)
    whole = encoder.encode(Request(example.id, messages))
    assert f"<|im_start|>user\n{message.content}<|im_end|>\n<|im_start|>assistant\n" in printed
    assert f"{len(whole):6}  the whole, with the chat template\n" in printed
    assert f"{len(encoder.encode_text(message.content)):6}  user\n" in printed
    taught = encoder.encode_text(example.rationale)
    assert f"{example.rationale}<|im_end|>\n{len(taught) + 1:6}  tokens" in printed
    assert f"question {example.id} of arithmetic's practice split" in printed
    assert "Source: written for this project\npurpose arithmetic, style chat, stop strings none\n" in printed


def test_plain_text_has_no_template(tiny_base_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = shown(capsys, tiny_base_model, "phrasebank-text")
    assert "Sentiment:\n--- tokens ---" in printed and "the whole\n" in printed
    assert r"style text, stop strings ['\n']" in printed
    with pytest.raises(UserError, match="no chat template"):
        shown(capsys, tiny_base_model, "arithmetic")


def test_variables_defaults_and_values(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = shown(capsys, tiny_model, "tutor", "role=a banker")
    assert "    input  the example's own\n" in printed
    assert "    role   unless the example has its own: a banker\n" in printed
    assert "    level  unless the example has its own: a beginner\n" in printed
    assert "<|im_start|>system\nYou are a banker. Explain so that a beginner can follow" in printed


def test_what_an_example_lacks_is_told_with_the_flag_that_gives_it(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"'critique' uses the variable 'draft'.*--prompt-args draft=…"):
        shown(capsys, tiny_model, "critique")
    assert "    draft  to be given by --prompt-args\n" in capsys.readouterr().out
    assert "Draft answer:\n12\n" in shown(capsys, tiny_model, "critique", "draft=12")


def test_a_task_of_ones_own_and_a_shot_that_its_examples_cannot_fill(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "".join(f'{{"input": "word {i}", "target": "{"ab"[i % 2]}"}}\n' for i in range(40))
    (tmp_path / "data.jsonl").write_text(lines)
    arguments = (f"path={tmp_path / 'data.jsonl'}", "grader=label")
    practice = load_task("file", dict(argument.split("=", 1) for argument in arguments)).practice
    own = Config("show", "classify", "file", arguments, str(tiny_model))
    main(own)
    printed = capsys.readouterr().out
    assert "    labels  the example's own\n" in printed and f"user\n{practice[0].input}\n" in printed
    main(Config("show", "question-steps", "file", arguments, str(tiny_model)))
    assert "'question-steps' uses the variable 'rationale'" in capsys.readouterr().out.splitlines()[-1]


def test_a_file_of_ones_own(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\npurpose: test\nfor: A test.\nsource: this test\nstyle: chat\nvariables: [input]\n"
        'messages: [{role: user, content: "Say: {{ input }}"}]\n'
    )
    printed = shown(capsys, tiny_model, str(path))
    assert printed.startswith("mine: A test. Source: this test\npurpose test,")
    assert "'mine' shows no answer: its file has no `shot`" in printed


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config("show"), r"show takes a prompt's name .* There are: arithmetic, "),
        (Config("show", "arithmetik"), "Did you mean 'arithmetic'"),
        (Config("shwo"), r"no action named 'shwo'\. Did you mean 'show'\? There are: list, show\."),
        (Config("arithmetic"), r"`workbench prompts show NAME` shows one prompt"),
        (Config("list", "arithmetic"), "`workbench prompts show arithmetic` shows one"),
        (Config("show", "tutor", prompt_args=("rule=x",)), "no variable 'rule' to be given. It has: role, level"),
        (Config("show", "tutor", prompt_args=("role",)), "--prompt-args takes name=value"),
        (Config("show", "tutor", task_args=("terms",)), "--task-args takes name=value"),
        (Config("show", "tutor", task="arithmetics"), "Did you mean 'arithmetic'"),
        (Config("show", "tutor", model="nowhere"), "There is no model 'nowhere'"),
    ],
)
def test_a_mistake_is_told_with_what_exists(config: Config, message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(config)
