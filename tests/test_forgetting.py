"""Forgetting: the losses are the model's own, an untouched model forgets nothing, and numbers have intervals."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import recipes.lora
import recipes.prompt_tuning
from workbench.decodes import Majority
from workbench.engines import EngineConfig
from workbench.engines.base import Batch
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.forgetting import (
    Abilities,
    Forgetting,
    Probe,
    abilities,
    changes,
    mean_loss,
    open_probe,
    perplexity,
    read_paragraphs,
    text_losses,
    without_head,
)
from workbench.ladder import climb
from workbench.methods.lora import Config as LoraConfig
from workbench.methods.soft_prompt import PromptTuning
from workbench.report import Rung, table
from workbench.rungs import Config as LadderConfig
from workbench.runs import Run
from workbench.session import Session, Setup
from workbench.stats import wilson_interval
from workbench.store import Store
from workbench.tasks import load_task
from workbench.training.config import Training
from workbench.types import Model, Outcome, Request, Result, Status

pytestmark = pytest.mark.usefixtures("one_thread")
PARAGRAPHS = read_paragraphs()
TRAINING = Training(epochs=1, batch_size=4, micro_batch=4, precision="float32")
SIZES = ("practice=8", "dev=4", "test=4")

# --- the text ---------------------------------------------------------------------------------------


def test_the_projects_text_is_48_different_paragraphs() -> None:
    assert len(PARAGRAPHS) == len(set(PARAGRAPHS)) == 48
    assert all(50 <= len(paragraph.split()) <= 90 for paragraph in PARAGRAPHS)
    starts = {" ".join(paragraph.split()[:3]) for paragraph in PARAGRAPHS}
    assert len(starts) == 48
    code = next(paragraph for paragraph in PARAGRAPHS if paragraph.startswith("def "))
    assert "\n    best = current = 0\n" in code, "lines and their indentation are kept"


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "could not be read"),
        (b"\xff\xfe\x00 caf\xe9\n\n" * 9, "is not UTF-8"),
        (b"one two\n\n" * 7, "has 7 paragraphs; it needs 8"),
        (b"one two\n\n" * 8 + b"alone\n", "Paragraph 9 of .* is the single word 'alone'"),
        (b"", "has 0 paragraphs"),
    ],
)
def test_a_text_that_cannot_be_measured_on_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_paragraphs(file)


def test_paragraphs_are_parted_by_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n\n" + "a b\n c d\n \t\n\n" * 9)
    assert read_paragraphs(tmp_path / "text.txt") == ("a b\n c d",) * 9


# --- the loss ---------------------------------------------------------------------------------------


def test_losses_are_those_of_transformers(tiny_model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from workbench.engines.hf import HfEngine

    chosen = PARAGRAPHS[:12]
    found = text_losses(HfEngine(Model(str(tiny_model)), dtype="float32", device="cpu"), chosen)
    weights = AutoModelForCausalLM.from_pretrained(tiny_model).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for paragraph, (loss, tokens) in zip(chosen, found, strict=True):
        ids = tokenizer(paragraph, return_tensors="pt")["input_ids"]
        read = len(tokenizer(paragraph.split()[0])["input_ids"])
        with torch.no_grad():
            logprobs = weights(ids).logits[0, :-1].log_softmax(-1)
        each = logprobs.gather(-1, ids[0, 1:, None]).squeeze(-1)[read - 1 :]
        assert tokens == len(each) == ids.shape[1] - read
        assert loss == pytest.approx(-float(each.sum()), rel=1e-5)


def test_losses_come_in_the_paragraphs_order_whatever_the_engines() -> None:
    class Reversed(FakeEngine):
        def logprobs(self, requests: Sequence[Request], continuations: Sequence[Sequence[str]]) -> Iterator[Batch]:
            yield from reversed(list(super().logprobs(requests, continuations)))

    told: list[tuple[int, int]] = []
    found = text_losses(Reversed(Model("fake")), PARAGRAPHS, lambda done, total: told.append((done, total)))
    assert found == text_losses(FakeEngine(Model("fake")), PARAGRAPHS)
    assert [tokens for _, tokens in found] == [len(paragraph.split()) - 1 for paragraph in PARAGRAPHS]
    assert told[-1] == (48, 48)


@pytest.mark.parametrize(
    "change, said",
    [
        (
            {"error": "the prompt has 600 tokens"},
            "Paragraph 1 of the text could not be scored: the prompt has 600",
        ),
        ({"logprob": None}, "the engine gave the log-probability None"),
        ({"logprob": -math.inf}, "the engine gave the log-probability -inf"),
    ],
)
def test_a_paragraph_without_a_score_is_refused(change: dict[str, Any], said: str) -> None:
    class Broken(FakeEngine):
        def logprobs(self, requests: Sequence[Request], continuations: Sequence[Sequence[str]]) -> Iterator[Batch]:
            for [(name, completion)] in super().logprobs(requests, continuations):
                yield [(name, replace(completion, **change))]

    with pytest.raises(UserError, match=said):
        text_losses(Broken(Model("fake")), PARAGRAPHS)


def test_mean_loss_and_perplexity_weigh_tokens_alike() -> None:
    losses = [(2.0, 1), (1.0, 3), (9.0, 4)]
    assert mean_loss(losses).value == 12 / 8
    found = perplexity(losses)
    assert found.value == math.exp(1.5)
    assert (found.low, found.high) == (math.exp(mean_loss(losses).low), math.exp(mean_loss(losses).high))


# --- before and after -------------------------------------------------------------------------------


def measured(right: Sequence[bool]) -> Result:
    outcomes = tuple(
        Outcome(f"q{i}", Status.CORRECT if good else Status.WRONG, float(good), "7", "7")
        for i, good in enumerate(right)
    )
    score = wilson_interval(sum(right), len(right))
    return Result("s" * 16, "other", "t" * 16, "dev", score, outcomes, (), **_no_costs())


def _no_costs() -> dict[str, Any]:
    from workbench.types import CostToMake, CostToUse

    return {"cost_to_make": CostToMake(), "cost_to_use": CostToUse()}


def probe_of(*names: str, questions: int = 100) -> Probe:
    return Probe("", PARAGRAPHS, tuple((name, load_task("arithmetic")) for name in names), questions)


def test_changes_are_paired_and_have_their_intervals() -> None:
    before = Abilities([(10.0 * i, 10) for i in range(1, 9)], (measured([True] * 6 + [False] * 2),))
    # Paragraphs differ widely and each gets worse by the same tenth of a nat a token.
    after = Abilities([(10.0 * i + 1, 10) for i in range(1, 9)], (measured([True] + [False] * 7),))
    found = changes(before, after, probe_of("sums"))
    assert found["general_paragraphs"] == 8
    assert (found["general_loss_before"], found["general_loss"]) == (4.5, 4.6)
    assert found["general_loss_low"] < 4 and found["general_loss_high"] > 5
    for name in ("forgetting", "forgetting_low", "forgetting_high"):
        assert found[name] == pytest.approx(0.1)
    assert (found["other_sums_before"], found["other_sums"]) == (6 / 8, 1 / 8)
    assert found["other_sums_change"] == pytest.approx(-5 / 8)
    assert found["other_sums_change_low"] < -5 / 8 < found["other_sums_change_high"]
    assert found["other_sums_p"] == 2 / 2**5, "exact McNemar of 5 against 0"
    assert found["other_sums_questions"] == 8
    for name in found:
        if not name.endswith(("_low", "_high", "_p", "_questions", "_paragraphs")):
            assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"]


def test_an_untouched_model_forgets_nothing() -> None:
    shown = Abilities(text_losses(FakeEngine(Model("fake")), PARAGRAPHS), (measured([True, False] * 4),))
    found = changes(shown, shown, probe_of("sums"))
    for name in ("forgetting", "forgetting_low", "forgetting_high", "other_sums_change"):
        assert found[name] == 0.0
    assert found["other_sums_p"] == 1.0


def test_a_models_abilities_are_measured_once_in_a_run(tmp_path: Path) -> None:
    opened: list[Model] = []

    def engine_of(model: Model) -> FakeEngine:
        opened.append(model)
        return FakeEngine(model)

    probe = probe_of("sums", questions=5)
    with Run.open(tmp_path, "lora", {}, name="r") as run, Store(tmp_path / "c.sqlite") as store:

        def shown(model: str, asked: Probe = probe) -> Abilities:
            return abilities(Model(model), asked, engine_of, store, run, quiet=True)

        first = shown("fake")
        assert shown("fake") == first and len(opened) == 1
        assert [len(result.outcomes) for result in first.results] == [5]
        assert {result.split for result in first.results} == {"dev"}
        assert store.looks(probe.tasks[0][1].hash, "test") == 0
        assert shown("fake:0.9").losses != first.losses and len(opened) == 2
        shown("fake", replace(probe, paragraphs=PARAGRAPHS[:9]))
        shown("fake", replace(probe, questions=6))
        assert len(opened) == 4, "another text or other questions are another measurement"


def test_a_measurement_with_failed_requests_is_not_kept(tmp_path: Path) -> None:
    def flaky(request: Request, index: int) -> str:
        if broken and "1" in request.messages[-1].content:
            raise ConnectionError("gone")
        return "The answer is 1."

    broken = True
    with Run.open(tmp_path, "lora", {}, name="r") as run, Store(tmp_path / "c.sqlite") as store:
        for expected in (True, False):
            found = abilities(
                Model("fake"), probe_of("sums"), lambda m: FakeEngine(m, flaky), store, run, quiet=True
            )
            assert any(outcome.score is None for outcome in found.results[0].outcomes) is expected
            assert bool(list((tmp_path / "r").glob("abilities-*.json"))) is not expected
            broken = False


def test_a_classification_head_is_left_off(tmp_path: Path) -> None:
    for kind in ("CLASSIFICATION_HEAD", "LORA"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))
        (tmp_path / kind / "adapter_model.safetensors").write_bytes(b"")
    head = Model("base", adapter=str(tmp_path / "CLASSIFICATION_HEAD"), quantization="nf4")
    assert without_head(head) == Model("base", quantization="nf4")
    lora = replace(head, adapter=str(tmp_path / "LORA"))
    assert without_head(lora) == lora
    assert without_head(Model("base")) == Model("base")


# --- what cannot be ---------------------------------------------------------------------------------


def test_settings_without_the_flag_are_refused() -> None:
    assert open_probe(Forgetting(), load_task("arithmetic")) is None
    for settings in ({"forgetting_tasks": ("arithmetic",)}, {"forgetting_text": Path("x.txt")}):
        with pytest.raises(UserError, match="add --forgetting"):
            Forgetting(**settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="forgetting_questions is 0"):
        Forgetting(True, forgetting_questions=0)


@pytest.mark.parametrize(
    "tasks, said",
    [
        (("arithmetic",), "is tuned on arithmetic, so 'arithmetic' tells nothing"),
        (("arithmetic,dev=3",), "is tuned on arithmetic"),
        (("arithmetik",), "There is no task named 'arithmetik'"),
        (("colours.yaml", "other/colours.yaml"), "names 'colours' twice"),
        (("arithmetic,hard",), "behind its name stand settings as name=value, and 'hard' is none"),
    ],
)
def test_tasks_that_tell_nothing_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, count in ((tmp_path, 40), (tmp_path / "other", 50)):
        colours_in(folder, count)
    with pytest.raises(UserError, match=said):
        open_probe(Forgetting(True, forgetting_tasks=tasks), load_task("arithmetic"))


def colours_in(folder: Path, count: int = 40) -> Path:
    """A file task with labels, described in a YAML file."""
    folder.mkdir(exist_ok=True)
    rows = "".join(f"thing {i} is {w},{w}\n" for i in range(count) for w in ("red", "blue"))
    (folder / "colours.csv").write_text("text,colour\n" + rows)
    file = folder / "colours.yaml"
    file.write_text("path: colours.csv\ninput: text\ntarget: colour\ngrader: label\n")
    return file


def test_a_file_task_is_refused_only_where_it_is_the_tuned_one(tmp_path: Path) -> None:
    file, other = colours_in(tmp_path), colours_in(tmp_path / "more", 50)
    tuned = load_task(str(file))
    with pytest.raises(UserError, match="is tuned on file"):
        open_probe(Forgetting(True, forgetting_tasks=(str(file),)), tuned)
    probe = open_probe(Forgetting(True, forgetting_tasks=(str(other), "arithmetic,dev=7")), tuned)
    assert probe is not None and [name for name, _ in probe.tasks] == ["colours", "arithmetic"]
    assert len(probe.tasks[1][1].dev) == 7


# --- recipes and the ladder ---------------------------------------------------------------------------


def setup(tiny_model: Path, runs: Path, **changes: Any) -> Setup:
    return replace(
        Setup(
            task_args=SIZES, model=str(tiny_model), engine=EngineConfig(dtype="float32"), questions=3, runs=runs,
            quiet=True,
        ),
        **changes,
    )  # fmt: skip


def test_a_recipe_measures_what_was_forgotten(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("\n\n".join(PARAGRAPHS[:9]))
    asked = Forgetting(True, text, (str(colours_in(tmp_path)),), forgetting_questions=4)
    config = recipes.lora.Config(
        setup(tiny_model, tmp_path / "runs", name="r"), LoraConfig(training=TRAINING), asked
    )
    result = recipes.lora.main(config)
    printed = capsys.readouterr().out
    assert result.metric("general_paragraphs") == 9
    assert result.metric("forgetting_low") <= result.metric("forgetting") <= result.metric("forgetting_high")
    assert result.metric("forgetting") != 0, "the adapter's losses are not the base's"
    assert result.metric("other_colours_questions") == 4
    weights = tmp_path / "runs" / "r" / "adapter" / "adapter_model.safetensors"
    size = weights.stat().st_size
    assert result.metric("artifact_bytes") == size
    assert f"trained parameters in an adapter of {size:,} bytes" in printed
    assert "forgetting" in printed and f"{result.metric('forgetting'):+.3f} (" in printed
    card = (tmp_path / "runs" / "r" / "README.md").read_text(encoding="utf-8")
    assert card.count("## Forgetting") == 1 and "this model: the loss on 9 paragraphs was" in card
    assert "dev questions of colours" in card
    assert "The general text is that of mine.txt." in result.notes
    assert Run(tmp_path / "runs" / "r", None).read_result() == result, "it travels with the result"
    assert recipes.lora.main(config) == result
    assert len(list((tmp_path / "runs" / "r").glob("abilities-*.json"))) == 2


def test_it_is_off_by_default_and_refusals_come_before_training(tiny_model: Path, tmp_path: Path) -> None:
    config = recipes.prompt_tuning.Config(
        setup(tiny_model, tmp_path, name="r"),
        PromptTuning(tokens=2, training=TRAINING),
        forgetting=Forgetting(True, forgetting_tasks=("arithmetic",)),
    )
    with pytest.raises(UserError, match="is tuned on arithmetic"):
        recipes.prompt_tuning.main(config)
    assert not (tmp_path / "r" / "adapter").exists()
    result = recipes.prompt_tuning.main(
        replace(config, setup=replace(config.setup, name="s"), lengths=(1, 2), forgetting=Forgetting())
    )
    assert not any(re.match("general|forgetting|other", name) for name, _ in result.metrics)
    assert result.metric("artifact_bytes") > 0
    card = (tmp_path / "s" / "README.md").read_text(encoding="utf-8")
    assert "Forgetting" not in card and "Chosen among 2 settings on the dev split" in card


def test_a_ladder_shows_it_beside_rungs_that_forget_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import workbench.forgetting

    texts: list[str] = []

    def spied(engine: Any, *rest: Any) -> Any:
        texts.append(engine.version)
        return text_losses(engine, *rest)

    monkeypatch.setattr(workbench.forgetting, "text_losses", spied)
    names = ("zero-shot", "lora", "lora-majority-vote", "prompt-tuning")
    config = LadderConfig(
        names, lora=LoraConfig(training=TRAINING), prompt_tuning=PromptTuning(tokens=2, training=TRAINING),
        vote=Majority(n=2), forgetting=Forgetting(True),
    )  # fmt: skip

    def climbed() -> list[Rung]:
        with Session("ladder", setup(tiny_model, tmp_path, name="r"), config) as session:
            return climb(session, config)

    rungs = climbed()
    printed = capsys.readouterr().out
    assert len(texts) == 3, "the base once, each tuned model once"
    zero, lora, vote, prompt = (dict(rung.result.metrics) for rung in rungs)
    assert "forgetting" not in zero
    assert lora["forgetting"] == vote["forgetting"] != prompt["forgetting"] != 0
    assert lora["general_loss_before"] == prompt["general_loss_before"]
    [row] = [line for line in printed.splitlines() if line.startswith(" zero-shot") and "56.1" in line]
    assert re.search(r"56\.1 +0 ", row), "unchanged weights: 0, without an interval"
    assert "lora, lora-majority-vote: the loss on 48 paragraphs was" in printed
    [report] = tmp_path.glob("r/report.html")
    assert f"{lora['forgetting']:+.3f}" in report.read_text(encoding="utf-8")
    assert climbed() == rungs and len(texts) == 3, "what is done is not done again"
    assert "forgetting" not in table([rungs[0]], 1)


def test_rungs_that_were_measured_without_it_get_it(tiny_model: Path, tmp_path: Path) -> None:
    """As when a ladder was killed between a rung and its forgetting, or the flag was added to a named run."""
    config = LadderConfig(("lora",), lora=LoraConfig(training=TRAINING), forgetting=Forgetting(True))
    with Session("ladder", setup(tiny_model, tmp_path, name="r"), config) as session:
        [plain] = climb(session, replace(config, forgetting=Forgetting()))
        assert "forgetting" not in dict(plain.result.metrics)
        [more] = climb(session, config)
    assert more.result.outcomes == plain.result.outcomes
    assert "forgetting" in dict(more.result.metrics)
