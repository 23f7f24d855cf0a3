"""Reward models that score answers: from their folder, in packed passes, or through vLLM servers' /classify.

Both read the conversation, the answer, and one token that ends the turn, as token ids: what a person wrote never
becomes a control token. Both give the reward itself, without vLLM's sigmoid.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import httpx
import torch
import transformers

from workbench.cost import ModelShape
from workbench.engines import EngineConfig
from workbench.engines.client import ServerError, Servers
from workbench.engines.encode import Encoder
from workbench.engines.packing import Tokens, pack_examples, rows_that_fit, sequence_on
from workbench.engines.reward_head import read_at_end, rewards_of, use_packed
from workbench.engines.served import cards_of, read_cards
from workbench.errors import UserError
from workbench.models import (
    check_model_folder,
    context_of,
    first_line,
    load_tokenizer,
    quiet_transformers,
    read_object,
    shape_of,
)
from workbench.types import Completion, Finish, Model, Request

_CONCURRENCY = 32  # HTTP requests in flight at once

Batch = list[tuple[int, Completion]]


def open_scorer(
    folder: str, config: EngineConfig, make_room: Callable[[], None] = lambda: None
) -> "RewardModel | RewardServer":
    """The reward model in a folder, or the servers that serve it.

    Args:
        folder: as `workbench reward_model` makes it.
        config: on which device, or which servers.
        make_room: called before the weights are loaded, where they are: a machine has memory for one model.

    Raises:
        UserError: no folder is named, it holds no reward model, or no server answers.
    """
    if not folder:
        raise UserError(
            "Best of n needs a scorer: --scorer logprob, self-certainty, judge, verifier, or the FOLDER of a "
            "reward model. `workbench reward_model` makes one in its run."
        )
    if config.scorer_endpoint:
        return RewardServer(folder, config.scorer_endpoint, api_key=os.environ.get("WORKBENCH_API_KEY"))
    return RewardModel(folder, device=config.device, make_room=make_room)


class RewardModel:
    """A folder's reward model on this machine, in the precision that it is stored in; loaded when it is needed.

    Args:
        folder: as transformers' sequence classification with one label stores it.
        device: cpu, cuda, …; by default the GPU where there is one.
        make_room: as of `open_scorer`.

    Raises:
        UserError: the folder holds no reward model.
    """

    def __init__(
        self, folder: str | Path, *, device: str | None = None, make_room: Callable[[], None] = lambda: None
    ) -> None:
        self.folder, self._make_room = Path(folder), make_room
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._config = _checked_config(self.folder)
        dtype = self._config.dtype or torch.float32
        self.version = (
            f"reward transformers-{transformers.__version__} torch-{torch.__version__} "
            f"{str(dtype).removeprefix('torch.')} {self.device}"
        )

    @cached_property
    def shape(self) -> ModelShape:
        """The model's size."""
        with torch.device("meta"), quiet_transformers():
            return shape_of(transformers.AutoModelForSequenceClassification.from_config(self._config))

    @cached_property
    def encoder(self) -> Encoder:
        """The tokenizer that the folder has."""
        return Encoder(load_tokenizer(Model(str(self.folder))))

    @cached_property
    def weights(self) -> Any:
        """The model, in evaluation mode."""
        self._make_room()
        try:
            with quiet_transformers():
                weights, told = transformers.AutoModelForSequenceClassification.from_pretrained(
                    self.folder,
                    dtype="auto",
                    use_safetensors=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
        except Exception as error:  # its readers raise whatever they meet
            raise UserError(
                f"The reward model in {str(self.folder)!r} cannot be loaded: {first_line(error)}"
            ) from error
        if told["missing_keys"]:  # transformers would draw them at random
            raise UserError(
                f"The reward model in {str(self.folder)!r} has no weights for {sorted(told['missing_keys'])[0]}."
            )
        return weights.to(self.device).eval()

    @cached_property
    def _packs(self) -> bool:
        return use_packed(self.weights)

    def rewards(self, asked: Sequence[tuple[Request, str]]) -> Iterator[Batch]:
        """The rewards of answers, in batches whose rows share their beginnings."""
        rows: list[tuple[int, int, Tokens]] = []  # place, tokens of the prompt, the row
        longest = context_of(self.weights)
        for place, (request, text) in enumerate(asked):
            prompt, said = _read(self.encoder, request, text)
            if len(prompt) + len(said) > longest:
                problem = f"{len(prompt) + len(said)} tokens, more than the reward model's {longest}"
                yield [(place, Completion(0, text, len(prompt), len(said), finish=Finish.ERROR, error=problem))]
            else:
                rows.append((place, len(prompt), read_at_end([*prompt, *said])))
        rows.sort(key=lambda row: row[2].ids)
        limit = sequence_on(self.device)
        while rows:
            started = time.perf_counter()
            count = rows_that_fit([[row] for _, _, row in rows[:limit]], limit)
            batch, rows = rows[:count], rows[count:]
            values = self.scores([row for _, _, row in batch])
            seconds = (time.perf_counter() - started) / count
            yield [
                (
                    place,
                    Completion(
                        0, asked[place][1], prompt, len(row.ids) - 1 - prompt, value, seconds, Finish.SCORED
                    ),
                )
                for (place, prompt, row), value in zip(batch, values, strict=True)
            ]

    @torch.inference_mode()
    def scores(self, rows: Sequence[Tokens]) -> list[float]:
        """Rewards of `read_at_end` rows: in one packed pass, or one by one where the architecture takes none."""
        if self._packs:
            return [float(value) for value in rewards_of(self.weights, pack_examples(rows, self.device))]
        lone = [torch.tensor([row.ids[:-1]], device=self.device) for row in rows]
        return [float(self.weights(input_ids=ids, use_cache=False).logits[0, 0]) for ids in lone]

    def close(self) -> None:
        """Let the weights go."""
        self.__dict__.pop("weights", None)
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()


class RewardServer:
    """A reward model that vLLM serves (`vllm serve FOLDER --runner pooling`), asked by token ids.

    What a server loaded cannot be seen from outside: it must be the folder that is named.

    Args:
        folder: the same folder here, for its tokenizer and its hash.
        endpoints: the servers' addresses; they take turns.
        api_key: the key that they want, or None.

    Raises:
        UserError: the folder holds no reward model, no server answers, or they serve different models.
    """

    shape: ModelShape | None = None  # as of an engine that is a server

    def __init__(self, folder: str | Path, endpoints: Sequence[str], *, api_key: str | None = None) -> None:
        _checked_config(Path(folder))
        self.encoder = Encoder(load_tokenizer(Model(str(folder))))
        self._servers = Servers(endpoints, api_key, timeout=300.0, retries=5, backoff=0.5)
        served = read_cards(self._servers)
        self._name = next((name for cards in served.values() for name in cards), "")
        card = next(iter(cards_of(self._name, served).values()))
        self.version = f"reward vllm {card.get('root') or self._name}"

    def rewards(self, asked: Sequence[tuple[Request, str]]) -> Iterator[Batch]:
        """The rewards of answers; a batch is one of them."""
        jobs = (partial(self._score, place, *one) for place, one in enumerate(asked))
        return self._servers.results(jobs, _CONCURRENCY)

    async def _score(self, place: int, request: Request, text: str, client: httpx.AsyncClient) -> Batch:
        prompt, said = _read(self.encoder, request, text)
        body = {
            "model": self._name,
            "input": [*prompt, *said],
            "use_activation": False,
            "add_special_tokens": False,
        }
        try:
            answer, seconds = await self._servers.post(client, "/classify", body)
            value = _reward_in(answer)
        except ServerError as error:
            problem = self._servers.scrub(str(error))
            return [(place, Completion(0, text, len(prompt), len(said), finish=Finish.ERROR, error=problem))]
        return [(place, Completion(0, text, len(prompt), len(said), value, seconds, Finish.SCORED))]

    def close(self) -> None:
        """Nothing to free."""


def _read(encoder: Encoder, request: Request, text: str) -> tuple[list[int], list[int]]:
    """(prompt ids, answer ids with the token that ends the turn); of an empty answer that token alone."""
    if text:
        return encoder.encode_completion(request, text)
    return encoder.encode(request), [encoder.tokenizer.eos_token_id]


def _reward_in(answer: dict[str, Any]) -> float:
    """The one number of a /classify answer.

    Raises:
        ServerError: the answer is of another form.
        UserError: the model that is served has several labels.
    """
    try:
        values = answer["data"][0]["probs"]
        if len(values) == 1:
            return float(values[0])
        count = len(values)
    except (KeyError, IndexError, TypeError, ValueError):
        raise ServerError(f"The answer is no classification: {str(answer)[:200]!r}") from None
    raise UserError(f"The server's model has {count} labels; a reward model has one.")


def _checked_config(folder: Path) -> Any:
    """The configuration of a folder that holds a reward model.

    Raises:
        UserError: it holds none.
    """
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {str(folder)!r}; a scorer is logprob, self-certainty, judge, verifier, or the "
            "folder of a reward model that `workbench reward_model` made."
        )
    check_model_folder(folder)
    kinds = read_object(folder / "config.json").get("architectures") or ["nothing"]
    if not str(kinds[0]).endswith("ForSequenceClassification"):
        raise UserError(
            f"The folder {str(folder)!r} holds {kinds[0]}, which is no reward model. `workbench reward_model` "
            "makes one."
        )
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if config.num_labels != 1:
        raise UserError(f"The model in {str(folder)!r} has {config.num_labels} labels; a reward model has one.")
    return config
