"""What goes to the Hub: all that is needed to load the model, nothing else, and nothing of this machine."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard

from recipes.publish import Config, main
from workbench.adapters import load_weights
from workbench.decodes import Greedy, LabelLikelihood
from workbench.errors import UserError
from workbench.files import read_json, write_json
from workbench.hub import split_card
from workbench.identity import to_json
from workbench.methods import adapters, head, lora, qlora, sft, soft_prompt
from workbench.prompts import load_prompt
from workbench.publishing import check_repo, publish
from workbench.run_folder import RunFolder
from workbench.runs import Run
from workbench.tasks.arithmetic import Config as ArithmeticConfig
from workbench.tasks.arithmetic import load
from workbench.tasks.base import Task, make_task
from workbench.tasks.graders import label_grader
from workbench.training.config import Training
from workbench.types import CostToMake, CostToUse, Example, Interval, Model, Result, System

pytestmark = pytest.mark.usefixtures("one_thread")

TRAINING = Training(learning_rate=1e-2, steps=2, batch_size=2, micro_batch=2, examples=2, precision="float32")
LABELS = ("red", "blue")
TEXT = "What is 12 plus 7?"
ADAPTER = {"README.md", "adapter_config.json", "adapter_model.safetensors", "base.json"}
TOKENIZER = {"chat_template.jinja", "tokenizer.json", "tokenizer_config.json"}
MODEL = {"README.md", "config.json", "generation_config.json", "model.safetensors"}


def colours() -> Task:
    examples = tuple(
        Example.make(f"The {thing} is {colour}.", colour, variables={"labels": ", ".join(LABELS)})
        for colour in LABELS
        for thing in ("house", "door")
    )
    splits = {"practice": examples, "dev": examples[:1], "test": examples[:1]}
    grade = label_grader(LABELS)
    return make_task("colours", settings={}, splits=splits, grade=grade, prompt="classify", labels=LABELS)


METHODS: dict[str, tuple[Callable[..., System], Any]] = {
    "lora": (lora.adapt, lora.Config(rank=2, training=TRAINING)),
    "qlora": (qlora.adapt, qlora.Config(rank=2, training=TRAINING)),
    "soft": (soft_prompt.adapt, soft_prompt.PromptTuning(tokens=2, training=TRAINING)),
    "houlsby": (adapters.adapt, adapters.Houlsby(bottleneck=2, training=TRAINING)),
    "sft": (sft.adapt, sft.Config(TRAINING)),
    "head": (head.adapt, head.Config("head", training=TRAINING)),
    "cold": (head.adapt, head.Config("cold", training=TRAINING)),
}
FILES = {
    "lora": ADAPTER | TOKENIZER,
    "qlora": ADAPTER | TOKENIZER,
    "soft": ADAPTER | TOKENIZER,
    "houlsby": ADAPTER | TOKENIZER,
    "sft": MODEL | TOKENIZER,
    "head": ADAPTER | TOKENIZER,
    "cold": MODEL | TOKENIZER | {f"head/{name}" for name in ADAPTER - {"README.md"}},
}


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each method, trained for two updates; LoRA's was measured."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("runs")
    for name, (adapt, config) in METHODS.items():
        of_labels = adapt is head.adapt
        task = colours() if of_labels else load(ArithmeticConfig(practice=2, dev=1, test=1))
        decode = LabelLikelihood() if of_labels else Greedy(4)
        system = System(Model(str(tiny_model)), load_prompt(task.prompt), decode)
        content = {"setup": {"model": str(tiny_model), "revision": None}, "config": config}
        with Run.open(root, name, content, name=name) as run:
            tuned = adapt(system, task, config, run, quiet=True)
            if name == "lora":
                run.write_result(result_of(tuned))
    torch.set_num_threads(threads)
    return root


def result_of(system: System) -> Result:
    score = Interval(0.5, 0.25, 0.75)
    metrics = (("macro_f1", 0.4),)
    return Result("s", "arithmetic", "t" * 16, "test", score, (), (), CostToMake(), CostToUse(), metrics)


@pytest.mark.parametrize("name", METHODS)
def test_a_folder_holds_what_is_needed_and_nothing_else(
    runs: Path, tmp_path: Path, tiny_model: Path, name: str
) -> None:
    files = publish(RunFolder(runs / name), tmp_path / "out")
    assert set(files) == FILES[name]
    there = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in there) == files
    for file in files:
        content = (tmp_path / "out" / file).read_bytes()
        for private in (str(runs), str(tiny_model), str(Path.cwd()), "checkpoint-"):
            assert private.encode() not in content, file
    source = runs / name / ("model" if name in ("sft", "cold") else "adapter")
    for weights in source.glob("*.safetensors"):
        assert (tmp_path / "out" / weights.name).read_bytes() == weights.read_bytes()


@pytest.mark.parametrize("place", ["run", "published"])
@pytest.mark.parametrize("name", METHODS)
def test_the_lines_in_the_card_load_the_model(
    runs: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    folder = runs / name
    if place == "published":
        publish(RunFolder(folder), tmp_path / "out")
        folder = tmp_path / "out"
    [code] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(folder)
    found: dict[str, Any] = {}
    exec(code.replace("FOLDER-OF-THE-BASE", str(tiny_model)), found)
    weights = found.get("weights", found["model"]).float().eval()
    ids = found["tokenizer"](TEXT, return_tensors="pt").input_ids
    expected = load_weights(RunFolder(runs / name).read_system().model, "float32", "cpu")
    with torch.no_grad():
        ours, theirs = (each(input_ids=ids).logits[0, -1].float() for each in (weights, expected))
    # The workbench's lines load bfloat16.
    assert torch.allclose(ours, theirs, atol=0.5 if name in ("qlora", "houlsby", "head", "cold") else 1e-4)


def test_the_card_has_what_the_hub_reads(runs: Path, tmp_path: Path) -> None:
    from huggingface_hub.repocard_data import model_index_to_eval_results

    publish(RunFolder(runs / "lora"), tmp_path / "out", "ada/arithmetic-lora")
    card = ModelCard((tmp_path / "out" / "README.md").read_text(encoding="utf-8"))
    [accuracy, f1] = card.data.eval_results or []
    assert (accuracy.metric_type, accuracy.metric_value, accuracy.dataset_split) == ("accuracy", 0.5, "test")
    assert "95 % interval 25.0 – 75.0 %" in str(accuracy.metric_name)
    assert (f1.metric_type, f1.metric_value) == ("f1", 0.4)
    assert 'PeftModel.from_pretrained(base, "ada/arithmetic-lora")' in card.text
    assert "hf download ada/arithmetic-lora --local-dir FOLDER" in card.text
    matter, _ = split_card((tmp_path / "out" / "README.md").read_text(encoding="utf-8"))
    assert model_index_to_eval_results(matter["model-index"])[0] == "lora"
    config = read_json(tmp_path / "out" / "adapter_config.json")
    assert config["base_model_name_or_path"] is None, "a local base has no name that others know"
    publish(RunFolder(runs / "sft"), tmp_path / "unmeasured")
    assert "model-index" not in split_card((tmp_path / "unmeasured" / "README.md").read_text(encoding="utf-8"))[0]


def test_a_base_goes_by_its_name_on_the_hub(
    runs: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model stands for one that the Hub's cache holds."""
    moved = copy_of(runs / "lora", tmp_path / "moved")
    system = read_json(moved / "system.json")
    write_json(moved / "system.json", system | {"model": system["model"] | {"base": "ada/tiny", "revision": "v1"}})
    monkeypatch.setattr("workbench.models._hub_folder", lambda base, revision: tiny_model)
    publish(RunFolder(moved), tmp_path / "out")
    config = read_json(tmp_path / "out" / "adapter_config.json")
    assert (config["base_model_name_or_path"], config["revision"]) == ("ada/tiny", "v1")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert 'AutoModelForCausalLM.from_pretrained("ada/tiny", revision="v1")' in card


def copy_of(run: Path, target: Path) -> Path:
    import shutil

    shutil.copytree(run, target)
    return target


def test_a_run_without_weights_is_refused(tmp_path: Path, tiny_model: Path, runs: Path) -> None:
    with Run.open(tmp_path, "zero_shot", {}, name="plain") as run:
        pass
    with pytest.raises(UserError, match="could not be read"):
        publish(RunFolder(run.path), tmp_path / "out")
    system = System(Model(str(tiny_model)), load_prompt("arithmetic"), Greedy(4))
    for model in (Model(str(tiny_model)), Model(str(tiny_model), adapter=str(runs / "lora" / "adapter"))):
        write_json(run.path / "system.json", to_json(System(model, system.prompt, system.decode)))
        with pytest.raises(UserError, match="The run plain made no weights"):
            publish(RunFolder(run.path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("lora", "adapter/optimizer.pt", r"holds optimizer\.pt, which can run code"),
        ("sft", "model/training_args.bin", r"holds training_args\.bin, which can run code"),
    ],
)
def test_pickles_are_refused(runs: Path, tmp_path: Path, name: str, file: str, message: str) -> None:
    moved = copy_of(runs / name, tmp_path / "moved")
    (moved / file).write_bytes(b"")
    with pytest.raises(UserError, match=message):
        publish(RunFolder(moved), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_pickled_weights_are_refused(runs: Path, tmp_path: Path) -> None:
    moved = copy_of(runs / "lora", tmp_path / "moved")
    (moved / "adapter" / "adapter_model.safetensors").rename(moved / "adapter" / "adapter_model.bin")
    with pytest.raises(UserError, match=r"adapter_model\.bin is refused"):
        publish(RunFolder(moved), tmp_path / "out")


def test_a_folder_that_is_not_empty_is_left_alone(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UserError, match="exists and is not an empty folder"):
        publish(RunFolder(runs / "lora"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_card_that_would_tell_of_this_machine_is_refused(runs: Path, tmp_path: Path) -> None:
    moved = copy_of(runs / "lora", tmp_path / "moved")
    card = moved / "README.md"
    card.write_text(card.read_text(encoding="utf-8") + f"\nMade in {moved}.\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"README\.md would tell of the folder"):
        publish(RunFolder(moved), tmp_path / "out")
    for text in ("# No front matter\n", ""):
        card.write_text(text)
        with pytest.raises(
            UserError, match="no model card that is whole; the command that made it writes it anew"
        ):
            publish(RunFolder(moved), tmp_path / "out")


# --- sending it -------------------------------------------------------------------------------------


class Stub:
    """Stands for `huggingface_hub.HfApi`."""

    calls: ClassVar[list[tuple[str, Any]]] = []
    public: ClassVar[bool] = False
    error: ClassVar[Exception | None] = None

    def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> str:
        if self.error is not None:
            raise self.error
        self.calls.append((repo, (private, exist_ok)))
        return f"https://huggingface.co/{repo}"

    def model_info(self, repo: str) -> Any:
        return type("Info", (), {"private": not self.public})

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        self.calls.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Stub]:
    class Fresh(Stub):
        calls: ClassVar[list[tuple[str, Any]]] = []

    monkeypatch.setattr(huggingface_hub, "HfApi", Fresh)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    return Fresh


def test_a_folder_is_made_and_sent(
    hub: type[Stub], runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(Config("lora", tmp_path / "out", push="ada/model", private=True, runs=runs))
    assert hub.calls == [("ada/model", (True, True)), ("ada/model", sorted(FILES["lora"]))]
    told = capsys.readouterr().out
    assert "adapter_model.safetensors" in told and "https://huggingface.co/ada/model" in told
    assert "not measured" not in told


def test_nothing_is_sent_unless_asked(
    hub: type[Stub], runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(Config("sft", tmp_path / "out", runs=runs))
    assert hub.calls == [] and "The run was not measured" in capsys.readouterr().out
    with pytest.raises(UserError, match="--private goes with --push"):
        main(Config("sft", tmp_path / "other", private=True, runs=runs))


def test_private_is_never_sent_to_a_public_place(
    hub: type[Stub], runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "public", True)
    with pytest.raises(UserError, match="is there already and public, so nothing was sent"):
        main(Config("lora", tmp_path / "out", push="ada/model", private=True, runs=runs))
    assert len(hub.calls) == 1, "nothing was uploaded"


def test_no_network_leaves_the_folder(
    hub: type[Stub], runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "error", ConnectionError("no route to host"))
    with pytest.raises(UserError, match=r"could not be sent \(ConnectionError: no route.*`hf upload ada/model"):
        main(Config("lora", tmp_path / "out", push="ada/model", runs=runs))
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_no_token_is_said_before_anything_is_made(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UserError, match="No one is logged in to the Hub: `hf auth login`"):
        main(Config("lora", tmp_path / "out", push="ada/model", runs=runs))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["model", "a/b/c", "a/ b", "", "https://huggingface.co/a/b", "../b/"])
def test_a_name_that_is_none_is_said(name: str) -> None:
    with pytest.raises(UserError, match="is no name on the Hub"):
        check_repo(name)
