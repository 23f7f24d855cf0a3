"""Adapters before they are served: what vLLM does not read, or would leave out without a word, is refused here."""

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.folders import new_folder
from workbench.identity import folder_hash
from workbench.models import cache_folder, check_adapter
from workbench.own_kinds import OWN_KINDS
from workbench.serving.config import RANKS
from workbench.serving.fit import check_base

LORA, SOFT = "LORA", "PROMPT_TUNING"

_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# Initial values that only A and B have; all others (PiSSA, OLoRA, CorDA, LoftQ) change the base's weights too.
_PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")

# Fields of adapter_config.json that vLLM 0.32 does not compute with, and what they stand for.
_UNREAD = {
    "use_dora": "DoRA",
    "lora_bias": "LoRA with biases",
    "modules_to_save": "whole modules beside LoRA",
    "trainable_token_indices": "single tokens' embeddings beside LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "replicated layers",
    "use_bdlora": "block-diagonal LoRA",
    "use_qalora": "QALoRA",
}


@dataclass(frozen=True)
class Adapter:
    """One adapter that may be served.

    Attributes:
        alias: what its user calls it.
        folder: where it is.
        kind: LORA or PROMPT_TUNING.
        rank: the largest of its ranks; 0 for a soft prompt.
        hash: of its content, 8 hexadecimal digits.
    """

    alias: str
    folder: Path
    kind: str
    rank: int
    hash: str

    @property
    def served(self) -> str:
        """Its name on the server: another for each content."""
        return f"{self.alias}-{self.hash}"

    @property
    def copy(self) -> Path:
        """Where it is served from, so that what is served does not change with its folder."""
        return cache_folder() / "servers" / "adapters" / self.served


def read_adapters(texts: Sequence[str], model: str, base: Path) -> list[Adapter]:
    """The adapters that were asked for, each checked.

    Args:
        texts: FOLDER or ALIAS=FOLDER.
        model: the base's served name.
        base: its folder.

    Raises:
        UserError: one of them cannot be served on this base; the message names it, the field and the mend.
    """
    found: list[Adapter] = []
    for text in texts:
        alias, folder = _parted(text)
        adapter = _read(alias, folder, model, base)
        if model in (alias, adapter.served):
            raise UserError(
                f"adapters: {text!r} would be called {alias!r}, as the base is: give it another ALIAS=."
            )
        if alias in (other.alias for other in found):
            raise UserError(f"adapters: two of them are called {alias!r}: give one another ALIAS=.")
        found.append(adapter)
    return found


def smallest_rank(adapters: Sequence[Adapter], asked: int | None) -> int:
    """The value of vLLM's --max-lora-rank; 0 where there is no LoRA and none was asked for.

    Raises:
        UserError: an adapter's rank is above what was asked for.
    """
    largest = max((adapter.rank for adapter in adapters), default=0)
    if asked is None:
        return next((rank for rank in RANKS if rank >= largest), 0) if largest else 0
    check_rank(adapters, asked, f"Say --max-lora-rank {next((r for r in RANKS if r >= largest), RANKS[-1])}.")
    return asked


def check_rank(adapters: Sequence[Adapter], largest: int, mend: str) -> None:
    """See that no adapter's rank is above a server's largest.

    Raises:
        UserError: one is.
    """
    for adapter in adapters:
        if adapter.rank > largest:
            raise UserError(
                f"The adapter {str(adapter.folder)!r} has the rank {adapter.rank} (adapter_config.json: r, "
                f"rank_pattern), and max_lora_rank is {largest}. {mend}"
            )


def copy_adapter(adapter: Adapter) -> Path:
    """The folder that the server is to read: a copy, made once for each content.

    Raises:
        UserError: the disk is full, or the adapter changed meanwhile.
    """
    if not adapter.copy.is_dir():
        with new_folder(adapter.copy) as scratch:
            for path in adapter.folder.iterdir():
                if path.suffix in (".safetensors", ".json", ".jinja"):
                    shutil.copyfile(path, scratch / path.name)
            if not folder_hash(scratch).startswith(adapter.hash):
                raise UserError(f"The adapter {str(adapter.folder)!r} changed while it was copied. Try again.")
    return adapter.copy


def _parted(text: str) -> tuple[str, Path]:
    """(alias, folder) of FOLDER or ALIAS=FOLDER."""
    alias, parts, rest = text.partition("=")
    if not parts or Path(text).is_dir():
        folder = _expanded(text)
        resolved = folder.resolve()  # also of `.`
        alias = resolved.parent.name if resolved.name == "adapter" else resolved.name
    else:
        folder = _expanded(rest)
    if not folder.is_dir():
        raise UserError(f"adapters: there is no folder {str(folder)!r}.")
    if not _ALIAS.fullmatch(alias):
        raise UserError(
            f"adapters: {alias!r} is no name for an adapter: 1 to 64 letters, digits, '.', '_' or '-', a letter "
            f"or a digit first. Name it: --adapters ALIAS={folder}"
        )
    return alias, folder


def _expanded(text: str) -> Path:
    """A folder whose `~` the shell left as it is, as it does behind ALIAS=."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 (Path's own fails for an unknown user)


def _read(alias: str, folder: Path, model: str, base: Path) -> Adapter:
    config = check_adapter(folder)
    kind = config.get("peft_type")
    name = f"The adapter {str(folder)!r}"
    if kind not in (LORA, SOFT):
        whose = "the workbench's own kind" if kind in OWN_KINDS else "the kind"
        raise UserError(
            f"{name} is of {whose} {kind} (adapter_config.json: peft_type), which vLLM cannot serve; it serves "
            f"{LORA}, and {SOFT} as embeddings. Ask this one with the engine hf: --engine hf."
        )
    rank = _check_lora(name, config, folder, model) if kind == LORA else 0
    check_base(folder, config, base, model)
    return Adapter(alias, folder, kind, rank, folder_hash(folder)[:8])


def _check_lora(name: str, config: dict[str, Any], folder: Path, model: str) -> int:
    """The largest rank of a LoRA whose every part vLLM computes with.

    Raises:
        UserError: a part that it does not.
    """
    mend = (
        f"Merge it into its base and serve that: workbench adapter merge --adapter {folder} --model {model} "
        "--out FOLDER; or use --engine hf."
    )
    for field, what in _UNREAD.items():
        if config.get(field):
            raise UserError(
                f"{name} is {what} (adapter_config.json: {field}), which vLLM 0.32 cannot serve. {mend}"
            )
    if config.get("bias", "none") != "none":
        raise UserError(
            f"{name} has trained biases (adapter_config.json: bias is {config['bias']!r}), which vLLM 0.32 cannot "
            f"serve. {mend}"
        )
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        raise UserError(
            f"{name} was begun as {init!r} (adapter_config.json: init_lora_weights), which changes the base's "
            "weights too, and was saved without being converted: on the base as it is, vLLM would compute another "
            f"model. Save it again with PEFT's path_initial_model_for_weight_conversion. {mend}"
        )
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if not all(type(rank) is int and rank > 0 for rank in ranks):
        raise UserError(f"{name} has the ranks {ranks} (adapter_config.json: r, rank_pattern), not whole numbers.")
    largest: int = max(ranks)
    if largest > RANKS[-1]:
        raise UserError(
            f"{name} has the rank {largest} (adapter_config.json: r, rank_pattern); vLLM serves {RANKS[-1]} at "
            f"most. {mend}"
        )
    return largest
