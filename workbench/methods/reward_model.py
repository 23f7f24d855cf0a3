"""A reward model: a number for an answer, learned from pairs of a better and a worse one (InstructGPT, §3.5).

Ouyang et al. 2022 (arXiv 2203.02155), equation 1: −log σ(r_chosen − r_rejected), the mean over all pairs of a
prompt, which are in one batch, each distinct answer computed once. The reward is a linear head on the hidden state
of the token that ends the turn. Where it departs from the paper: LoRA learns beside the head unless `--weights
all`; the head starts at zero; rewards are not shifted to a mean of 0, which no choice among answers depends on;
and pairs are right against wrong samples of the model itself, where no file of pairs is given.

What comes out is transformers' sequence classification with one label, LoRA merged, in the run's `reward_model/`.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from workbench.command import Flat
from workbench.decodes import BestOfN, Greedy, Sample
from workbench.drawing import Drawer
from workbench.errors import UserError, check_range
from workbench.files import read_json, write_atomic, write_json
from workbench.hub import join_card, split_card
from workbench.identity import to_json
from workbench.methods.lora import Config as LoraConfig
from workbench.methods.lora import check_weights, peft_settings
from workbench.preferring.given import Given, Pairs, pairs_for
from workbench.preferring.pairs import read_pairs, write_pairs
from workbench.runs import Run
from workbench.tasks.base import Task
from workbench.training.card import cost_of, finish, model_card, together, with_load_section
from workbench.training.config import Data, Training
from workbench.types import Model, System

FOLDER = "reward_model"
_HELD = "pairs-held-out.jsonl"


@dataclass(frozen=True)
class Config:
    """Which pairs, and how it is trained.

    Attributes:
        pairs: which pairs are learned from; those that are made have their held-out ones from dev.
        held_out: of a file, the share of its prompts whose pairs are not learned from and measured.
        weights: what learns beside the head: a LoRA adapter, which is merged, or all weights.
        lora: the adapter, where one learns, and the training; its batch_size and examples count prompts, of which
            the latter are those that are sampled.

    Raises:
        UserError: a value is out of range, or data of fine-tuning are named.
    """

    pairs: Flat[Pairs] = field(default_factory=Pairs)
    held_out: float = 0.1
    weights: Literal["lora", "all"] = "lora"
    lora: Flat[LoraConfig] = field(
        default_factory=lambda: LoraConfig(training=Training(learning_rate=3e-4, epochs=1, batch_size=8))
    )

    def __post_init__(self) -> None:
        check_range("held_out", self.held_out, 0.001, 0.9)
        if self.pairs.pairs is None and self.held_out != type(self).held_out:
            raise UserError("held_out is for --pairs; of pairs that are made those of the dev split are held out.")
        check_weights(self.weights, self.lora)
        if self.lora.training.data != Data():
            raise UserError("--data and what goes with it are of fine-tuning; pairs come from --pairs.")


def adapt(system: System, task: Task, config: Config, run: Run, drawer: Drawer, *, quiet: bool = False) -> System:
    """The system under best of n with a reward model as its scorer; model and prompt stay as they are.

    Samples are drawn as the system's decode draws them, where it samples, else 16 at temperature .7.

    Args:
        system: its model is what the reward model is made of; made pairs are its samples under its prompt.
        task: its practice questions are sampled and graded, and dev's for held-out pairs, without a file.
        config: how.
        run: pairs, checkpoints, metrics, `reward_model/`, `held_out.json`, `calibration.svg` and the card go
            there; a finished run is not run again.
        drawer: draws the samples.
        quiet: no progress bar.

    Raises:
        UserError: the pairs cannot be had, the model has an adapter or is quantised, its architecture has no
            sequence classification, or too little disk; a run that was interrupted goes on.
    """
    folder = run.path / FOLDER
    if not folder.is_dir():
        if system.model.quantization is not None:
            raise UserError("A reward model is merged into its base, which must not be quantised: leave it out.")
        learned, held = _pairs(config, system, task, run, drawer)
        drawer.close()
        _train(system, config, run, learned, held, folder, quiet)
    if not (run.path / "held_out.json").exists():
        _judge(run, folder)
    decode = system.decode
    how = vars(decode) if isinstance(decode, Sample) else {}
    if isinstance(decode, Greedy):
        how = {"max_tokens": decode.max_tokens}
    best = replace(system, decode=BestOfN(**{**how, "scorer": str(folder)}))
    finish("reward model", best, task, config, run)
    run.write_card(_card(best, task, config, run, folder))
    return best


def _pairs(config: Config, system: System, task: Task, run: Run, drawer: Drawer) -> tuple[Given, Given]:
    """(to learn from, held out)."""
    from workbench.preferring.held_out import split

    questions = config.lora.training.examples
    given = pairs_for(config.pairs, system, task, run, drawer, questions=questions)
    if config.pairs.pairs is None:
        return given, pairs_for(config.pairs, system, task, run, drawer, split="dev")
    learned, held = split(given.pairs, config.held_out)
    return replace(given, pairs=learned), replace(given, pairs=held, source=f"{config.pairs.pairs.name}, held out")


def _train(system: System, config: Config, run: Run, given: Given, held: Given, folder: Path, quiet: bool) -> None:
    from peft import get_peft_model

    from workbench.engines.reward_head import with_reward_head
    from workbench.preferring.pair_rows import rows_of_pairs
    from workbench.preferring.reward_loss import RewardLoss
    from workbench.training.batches import Examples
    from workbench.training.data import base_and_encoder, within_context
    from workbench.training.saving import save_model
    from workbench.training.sft import fit

    training, whole = config.lora.training, config.weights == "all"
    base, encoder = base_and_encoder(system, training, all_weights=whole)
    groups, counts = rows_of_pairs(given.pairs, encoder, within_context(base, training))
    record = run.path / "data.json"
    if record.exists() and read_json(record)["hash"] != given.hash:
        raise UserError(f"{run.path} was begun with other pairs. Give this run another --name, or --overwrite.")
    about: dict[str, Any] = {
        "source": given.source,
        "hash": given.hash,
        "format": "pairs",
        "loss_is": "nats a pair",
    }
    about |= {name: counts[name] for name in ("learned", "prompts", "too_long")}  # no token is learned to be said
    write_pairs(run.path / _HELD, held.pairs)
    write_json(record, about | {"held_out": held.source})
    adapted: Any = None if whole else get_peft_model(base, peft_settings(base, config.lora))
    weights = with_reward_head(base, encoder.tokenizer)
    if whole:
        weights.requires_grad_(True)
    objective = RewardLoss(weights, encoder.tokenizer)
    fit(weights, Examples(groups, training), training, run, quiet, objective=objective)
    write_json(run.path / "cost.json", to_json(together([given.cost, cost_of(run)])))
    if adapted is not None:
        weights.float()  # the sum of the two is rounded once, where it is stored
        adapted.merge_and_unload()
    tokenizer = encoder.tokenizer
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(weights.config.pad_token_id)
    save_model(weights, tokenizer, folder, training.precision)


def _judge(run: Run, folder: Path) -> None:
    from workbench.engines.scorer import RewardModel
    from workbench.instructing.reliability import Reading, diagram
    from workbench.preferring.held_out import judged

    scorer = RewardModel(folder)
    told = judged(read_pairs(run.path / _HELD), scorer) | {"source": read_json(run.path / "data.json")["held_out"]}
    scorer.close()
    sure, right, groups = (tuple(told.pop(name)) for name in ("sure", "right", "groups"))
    write_atomic(
        run.path / "calibration.svg", diagram([Reading("σ(|margin|), held-out pairs", groups, sure, right, ())])
    )
    write_json(run.path / "held_out.json", told)  # last: where it is, the run is done


def _card(best: System, task: Task, config: Config, run: Run, folder: Path) -> str:
    """The card of the reward model: as of a tuned model of its own, with what it scores and how it is loaded."""
    from workbench.preferring.held_out import in_words

    card = model_card("reward model", replace(best, model=Model(str(folder))), task, config, run)
    matter, text = split_card(with_load_section(card, _LOADING))
    own = "Its pairs are answers to it." if config.pairs.pairs is None else "Its pairs bring prompts of their own."
    text = text.replace("Tuned by reward model with", "A reward model made with", 1)
    text = re.sub(r"It (learned|did not learn)[^\n]* The answer is found by BestOfN[^\n]*", own, text, count=1)
    figures = "\n".join(f"- {line}" for line in in_words(read_json(run.path / "held_out.json")).splitlines())
    text += f"""
## Held-out pairs

{figures}

Vertical lines are Wilson's 95 % intervals, as if pairs were independent; the numbers at the foot are pairs.

![Accuracy by confidence](calibration.svg)
"""
    return join_card(matter | {"pipeline_tag": "text-classification", "tags": ["reward-model"]}, text)


_LOADING = f"""## How to load it

    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained("{FOLDER}")
    tokenizer = AutoTokenizer.from_pretrained("{FOLDER}")

Its one logit is the reward. It is read at the last token that is not padding, which must be the one that ends the
turn (`tokenizer.eos_token`), right behind the answer: no line feed after it, as chat templates put one.

    vllm serve {FOLDER} --runner pooling

`/classify` gives the reward's sigmoid, and with `"use_activation": false` the reward. `workbench best_of_n
--scorer {FOLDER}` chooses among samples with it, in itself or through `--scorer-endpoint`.

"""
