"""A run's model as a folder for the Hub: safetensors, configuration, tokenizer and card, and nothing else.

What is copied is named, file by file; checkpoints, optimiser states and whatever else lies beside it stay behind.
No text that leaves names a folder of this machine.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.files import read_json, write_atomic, write_json
from workbench.folders import new_folder
from workbench.hub import hub_id, join_card, loading, split_card
from workbench.models import (
    cache_folder,
    check_adapter,
    check_model_folder,
    first_line,
    load_tokenizer,
    quiet_transformers,
)
from workbench.proxy import check_one
from workbench.run_folder import RunFolder
from workbench.training.card import base_of, with_load_section
from workbench.types import Model, Result

_ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "base.json")
_MODEL = (
    "config.json", "generation_config.json", "*.safetensors", "model.safetensors.index.json",
    "chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt",
)  # fmt: skip
_HEAD = "head"  # where a whole model's own output layer goes
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}


def publish(run: RunFolder, out: Path, repo: str | None = None) -> list[str]:
    """Make the folder, and return the names of its files.

    Args:
        run: a run that tuned a model.
        out: the folder to make.
        repo: its name on the Hub, for the card, where it goes there.

    Raises:
        UserError: the run made no weights, holds pickles among them, or its card was written by an older version;
            `out` is not empty.
    """
    model = run.read_system().model
    check_one(model, "published")
    base = base_of(model, run)
    whole, adapter = _inside(model.base, run), _inside(model.adapter, run)
    if whole is None and adapter is None:
        raise UserError(
            f"The run {run.id} made no weights: its System is {model.base!r} with a prompt and a decode. "
            "Name a run that tuned a model (`workbench runs` lists them)."
        )
    card = _card(run, model, base, repo)
    with new_folder(out) as scratch:
        if whole is not None:
            check_model_folder(whole)
            _copy(whole, scratch, _MODEL)
        else:
            with quiet_transformers():
                load_tokenizer(model).save_pretrained(scratch)
        if adapter is not None:
            target = scratch if whole is None else scratch / _HEAD
            target.mkdir(exist_ok=True)
            check_adapter(adapter)
            _copy(adapter, target, _ADAPTER)
            _name_base(target / "adapter_config.json", None if whole is not None else base)
        write_atomic(scratch / "README.md", card)
        _check_private(scratch, run, model)
        return sorted(path.relative_to(scratch).as_posix() for path in scratch.rglob("*") if path.is_file())


def push(folder: Path, repo: str, *, private: bool) -> str:
    """Send a folder to the Hub, into a repository that is made if need be; gives its address.

    Raises:
        UserError: the name is none, no one is logged in, or the Hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        made = api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise UserError(
                f"{repo} is there already and public, so nothing was sent; --push another, or make it private."
            )
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Model, tokenizer and card")
    except UserError:
        raise
    except Exception as error:  # the library raises a dozen kinds for one thing: it was not sent
        raise UserError(
            f"{repo} could not be sent ({first_line(error)}). The folder {str(folder)!r} is whole: "
            f"`hf upload {repo} {folder}` sends it."
        ) from error
    return str(made)


def check_repo(repo: str) -> None:
    """See that a folder can be sent there, as far as can be told without a network; for before hours of work.

    Raises:
        UserError: the name is none of the Hub's, or no one is logged in.
    """
    from huggingface_hub import get_token

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise UserError(f"{repo!r} is no name on the Hub: it is owner/name, as in --push ada/arithmetic-lora.")
    if get_token() is None:
        raise UserError(
            "No one is logged in to the Hub: `hf auth login`, or set HF_TOKEN to a token that may write."
        )


def results_of(name: str, pipeline: str, result: Result) -> list[dict[str, Any]]:
    """A result as the `model-index` of a card's front matter: accuracy with its interval, and macro F1."""
    low, high = 100 * result.score.low, 100 * result.score.high
    named = f"accuracy (95 % interval {low:.1f} – {high:.1f} %, {result.total} questions)"
    metrics = [{"type": "accuracy", "value": round(result.score.value, 6), "name": named}]
    if "macro_f1" in dict(result.metrics):
        metrics.append({"type": "f1", "value": round(result.metric("macro_f1"), 6), "name": "macro F1"})
    dataset = {
        "type": result.task,
        "name": result.task,
        "split": result.split,
        "args": {"task_hash": result.task_hash},
    }
    return [{"name": name, "results": [{"task": {"type": pipeline}, "dataset": dataset, "metrics": metrics}]}]


def _card(run: RunFolder, model: Model, base: Model | None, repo: str | None) -> str:
    """The run's card, with what the Hub reads of its results, and how the model is loaded from its new place."""
    file = run.path / "README.md"
    matter, text = split_card(file.read_text(encoding="utf-8")) if file.is_file() else ({}, "")
    if "pipeline_tag" not in matter:
        raise UserError(
            f"The run {run.id} has no model card that is whole; the command that made it writes it anew."
        )
    result = run.read_result()
    if result is not None:
        matter["model-index"] = results_of(run.id, str(matter["pipeline_tag"]), result)
    adapter = "." if base is not None and model.base == base.base else _HEAD
    return join_card(matter, with_load_section(text, loading(model, base, ".", adapter, repo)))


def _inside(path: str | None, run: RunFolder) -> Path | None:
    """A folder, if it lies in the run's."""
    folder = Path(path or "")
    return folder if path and folder.is_dir() and folder.resolve().is_relative_to(run.path.resolve()) else None


def _copy(source: Path, target: Path, patterns: tuple[str, ...]) -> None:
    pickles = sorted(path.name for path in source.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise UserError(
            f"{str(source)!r} holds {', '.join(pickles)}, which can run code when loaded. Move them away first."
        )
    for pattern in patterns:
        for file in sorted(source.glob(pattern)):
            shutil.copyfile(file, target / file.name)


def _name_base(file: Path, base: Model | None) -> None:
    """The base by its name on the Hub, in place of the folder that it was loaded from."""
    config = read_json(file)
    config["base_model_name_or_path"] = None if base is None else hub_id(base)
    config["revision"] = None if base is None else base.revision
    write_json(file, config)


def _check_private(folder: Path, run: RunFolder, model: Model) -> None:
    """See that no text names a folder of this machine.

    Raises:
        UserError: one does.
    """
    here = [run.path.resolve(), cache_folder(), Path.home(), Path.cwd(), Path(model.base)]
    paths = [str(path) for path in here if path.is_absolute() and len(path.parts) > 2]
    texts = [folder / "README.md", *folder.rglob("*config.json")]
    for file in texts:
        text = file.read_text(encoding="utf-8")
        if found := [path for path in paths if path in text or path.replace(os.sep, "/") in text]:
            raise UserError(
                f"{file.name} would tell of the folder {found[0]!r} of this machine. Is it in a setting or in the "
                "prompt? If not: the command that made the run writes its card anew."
            )
