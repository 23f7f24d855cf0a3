"""What servers serve, and by which name they know a model.

An adapter is served as `<alias>-<hash>`, with the first digits of its folder's hash: another content has another
name, so that no answer of an older one is taken for it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workbench.engines.client import ServerError, Servers
from workbench.errors import UserError, unknown_name
from workbench.identity import folder_hash, short_hash
from workbench.models import check_adapter
from workbench.own_kinds import OWN_KINDS
from workbench.server_state import state_of
from workbench.types import Model

HASH_DIGITS = 8

Cards = dict[str, dict[str, Any]]
"""What a server tells of each model, by served name."""


def check_kind(model: Model) -> None:
    """Refuse an adapter that no server reads, or whose folder is not here: nothing could tell its content.

    Raises:
        UserError: it is one of them.
    """
    if model.adapter is None:
        return
    if not (Path(model.adapter) / "adapter_config.json").is_file():
        raise UserError(
            f"There is no adapter in the folder {model.adapter!r}. For an adapter that the server has under a "
            "name, leave --adapter out and give that name: --model NAME (or --served-name NAME)."
        )
    kind = check_adapter(model.adapter).get("peft_type")
    if kind in OWN_KINDS:
        raise UserError(
            f"The adapter {model.adapter!r} is of the kind {kind}, which no server reads: what answered would be "
            "another model. Use the engine hf."
        )


def read_cards(servers: Servers) -> dict[str, Cards]:
    """What each endpoint that answers serves; endpoints that do not are passed over as long as one does.

    Raises:
        UserError: none answers, the key is refused, or this machine knows that one did not pass its canaries.
    """
    found: dict[str, Cards] = {}
    failures = []
    for url in servers.urls:
        _check_health(url)
        try:
            models = servers.get(f"{url}/v1/models").get("data") or []
        except ServerError as error:
            failures.append(f"{url}: {error}")
            continue
        found[url] = {str(card.get("id")): card for card in models if isinstance(card, dict)}
    if not found:
        raise UserError(f"No server answers. {'; '.join(failures)}. Is it started, and is it loaded?")
    return found


def cards_of(name: str, served: Mapping[str, Cards]) -> Cards:
    """What each endpoint tells of one model, by address.

    Raises:
        UserError: one does not serve it.
    """
    for url, cards in served.items():
        if name not in cards:
            raise unknown_name(f"model at {url}", name, cards)
    return {url: cards[name] for url, cards in served.items()}


def adapter_name(adapter: str, served: Mapping[str, Cards]) -> str:
    """The name that all endpoints serve a local adapter under: one that ends in its hash, else its folder's.

    Raises:
        UserError: none serves it, or they have no name for it in common.
    """
    ending, own = _ending(adapter), Path(adapter).resolve().name
    by_hash = [{name for name in cards if name.endswith(ending)} for cards in served.values()]
    by_folder = [{own} & cards.keys() for cards in served.values()]
    for names in (by_hash, by_folder):
        if common := set.intersection(*names):
            return min(common)
        if any(names):
            break
    listing = "; ".join(f"{url} serves {', '.join(sorted(cards)) or 'nothing'}" for url, cards in served.items())
    raise UserError(
        f"The adapter {adapter!r} is served under no name that ends in {ending} (its content's hash), nor as "
        f"{own!r}{' everywhere' if len(served) > 1 else ''}: {listing}. Add it with `workbench serve reload`, or "
        "give the name that it is served by: --served-name."
    )


def base_card(name: str, cards: Cards) -> dict[str, Any]:
    """What a server tells of a model, or of the base that an adapter is on."""
    return cards.get(str(cards[name].get("parent"))) or cards[name]


def content_of(name: str, cards: Cards, adapter: str | None) -> str:
    """What is behind a name: the folder or Hub id that the server loaded.

    Of a local adapter that is named by its content it is the base's and the content's hash: where a server keeps
    its copy of the adapter says nothing.
    """
    if adapter is not None and name.endswith(_ending(adapter)):
        return f"{base_card(name, cards).get('root')} + {_ending(adapter)[1:]}"
    return str(cards[name].get("root") or name)


_NAMES_AND_ADAPTERS = (
    "--model", "--served-model-name", "--host", "--port",
    "--enable-lora", "--max-lora-rank", "--max-loras", "--lora-target-modules", "--lora-modules",
)  # fmt: skip


def started_as(url: str) -> str:
    """How a server of this machine's `workbench serve` runs the model; empty of any other, which does not tell.

    Build, dtype, whether it compiles, and a hash of all its arguments but names, addresses and what adapters need:
    those have their own content. A hash, because an argument may be a secret.
    """
    state = state_of(url)
    if state is None or state.health == "dead":  # whatever answers there now is another one
        return ""
    kept: list[str] = []
    keeps = False  # the interpreter comes first
    for word in state.command:
        keeps = word not in _NAMES_AND_ADAPTERS if word.startswith("-") else keeps
        kept += [word] if keeps else []
    mode = "eager" if "--enforce-eager" in kept else "compiled"
    return f"{state.version}, {state.dtype}, {mode}, arguments {short_hash(kept)[:HASH_DIGITS]}"


def _ending(adapter: str) -> str:
    return f"-{folder_hash(adapter)[:HASH_DIGITS]}"


def _check_health(url: str) -> None:
    state = state_of(url)
    if state is not None and (state.health == "starting" or (state.health == "unhealthy" and not state.canaries)):
        why = "it is still starting" if state.health == "starting" else state.note
        raise UserError(
            f"The server at {url} has not been checked: {why}. What it says may not be what the model says. See "
            "`workbench serve status`."
        )
    if state is not None and state.health == "unhealthy":
        seen = " ".join(map(str, state.failed))
        raise UserError(
            f"The server at {url} is unhealthy: it answers, but failed its canaries ({seen}). What it says is not "
            "what the model says. See `workbench serve status`, and start it anew."
        )
