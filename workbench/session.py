"""What every recipe needs: the task, the engine, the store and the run's folder, from one small Config.

A `Session` is open while a recipe works. It holds one engine at a time, because a machine has memory for one
model; asking for another model's engine closes the one before.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from workbench.command import Flat
from workbench.decodes import OWN_SCORERS, BestOfN, Decode, Greedy, LabelLikelihood, Sample, reward_folder
from workbench.drawing import Drawer
from workbench.engines import EngineConfig
from workbench.engines.base import Engine
from workbench.errors import UserError
from workbench.identity import file_hash, folder_hash, model_identity, short_hash, system_hash, to_json
from workbench.models import EMBEDDED
from workbench.preferring.given import Pairs
from workbench.progress import Bar
from workbench.prompts import load_prompt, with_values
from workbench.runs import Run
from workbench.step_decodes import BeamSearch, Stepwise, own_prompts
from workbench.store import Store
from workbench.tasks import load_task
from workbench.tasks.base import Task
from workbench.training.config import Data
from workbench.types import CostToMake, Interval, Model, Result, System


@dataclass(frozen=True)
class Setup:
    """The task, the model, and where things are kept.

    Attributes:
        task: a task's name (`workbench tasks` lists them), or a .yaml file that describes your own.
        task_args: the task's own settings, as name=value.
        model: smollm2-135m-instruct (embedded), a local folder, a Hub id, or the name on a server.
        revision: of a Hub id.
        adapter: a folder with an adapter in PEFT's format.
        quantization: nf4 or int8 loads the model's linear layers in 4 or 8 bits (engine hf); by default as they
            are stored.
        prompt: a prompt's name (`workbench prompts` lists them) or a .yaml file; by default the task's own.
        prompt_args: values of the prompt's own variables, as name=value (`workbench prompts show NAME` lists
            them); a value that an example itself brings comes first.
        questions: how many questions to measure on; by default all.
        split: what to measure on; `test` for a figure to report, `dev` while you try things out.
        engine: which engine answers.
        runs: folder of all runs and of the store of completions.
        name: a name for the run's folder; by default the recipe's name and a hash of the settings.
        overwrite: start anew where a run of other settings has this name; what is there is kept aside.
        quiet: no progress bars.
    """

    task: str = "arithmetic"
    task_args: tuple[str, ...] = ()
    model: str = EMBEDDED
    revision: str | None = None
    adapter: str | None = None
    quantization: Literal["nf4", "int8"] | None = None
    prompt: str | None = None
    prompt_args: tuple[str, ...] = ()
    questions: int | None = None
    split: str = "test"
    engine: Flat[EngineConfig] = field(default_factory=EngineConfig)
    runs: Path = Path("runs")
    name: str | None = None
    overwrite: bool = False
    quiet: bool = False


# What says where and how a run works, but not what it computes: the run's id does not depend on it.
_NOT_CONTENT = {
    "runs", "name", "overwrite", "quiet", "endpoint", "scorer_endpoint", "estimate_only", "forgetting",
    "tensorboard", "micro_batch", "save_every",
}  # fmt: skip
_FOLDERS = {"expert", "antiexpert", "tuned"}  # of proxy tuning: by their content
_ONLY_WHETHER = {"server"}  # whoever draws changes the result, where it listens does not


class Session:
    """Everything a recipe works with. Use it in a `with` block.

    Raises:
        UserError: a name or a setting does not exist, or another process works in the same run.
    """

    def __init__(self, recipe: str, setup: Setup, config: Any) -> None:
        from workbench.harness import questions_of  # here and below: numpy would slow --help down

        self.setup = setup
        # What is misspelt or out of range is said before a folder is made and before hours of training.
        self.task: Task = load_task(setup.task, pairs("--task-args", setup.task_args))
        prompt = load_prompt(setup.prompt or self.task.prompt)
        self.prompt = with_values(prompt, pairs("--prompt-args", setup.prompt_args))
        questions_of(self.task, setup.split, setup.questions)
        content = {
            "recipe": recipe,
            **content_of(config),
            "task_hash": self.task.hash,
            "prompt_hash": self.prompt.file_hash,
        }
        model = Model(setup.model, setup.revision, setup.adapter, setup.quantization)
        if setup.adapter or Path(setup.model).is_dir():  # the same path with new weights is another model
            content["model_hash"] = short_hash(model_identity(model))
        self.store = Store(setup.runs / "completions.sqlite")
        self.run = Run.open(setup.runs, recipe, content, name=setup.name, overwrite=setup.overwrite)
        self.drawer = Drawer(setup.engine, self.store, setup.quiet)

    def system(self, decode: Decode | None = None) -> System:
        """The System that the setup names: no exemplars; the decode given, else the task's natural one.

        The natural decode is the likelihood of labels where the task has labels, else greedy.
        """
        setup = self.setup
        model = Model(setup.model, setup.revision, setup.adapter, setup.quantization)
        if decode is None:
            decode = LabelLikelihood() if self.task.labels else Greedy()
        return System(model, self.prompt, self.with_length(decode))

    def with_length(self, decode: Decode) -> Decode:
        """The decode with the task's own limit of tokens, where none was given."""
        if isinstance(decode, (Greedy, Sample, Stepwise)) and decode.max_tokens is None:
            return replace(decode, max_tokens=self.task.max_tokens)
        return decode

    def engine(self, model: Model) -> Engine:
        """The engine of a model; the one before is closed if it is another's."""
        return self.drawer.engine(model)

    def close_engine(self) -> None:
        """Free the model's memory, for training or for another model."""
        self.drawer.close()

    def measure(self, system: System, cost_to_make: CostToMake | None = None, label: str = "") -> Result:
        """Measure a System on the setup's split, with a progress bar."""
        from workbench.harness import evaluate

        scorer, decode = None, system.decode
        if isinstance(decode, (BestOfN, BeamSearch)) and decode.scorer not in OWN_SCORERS:
            from workbench.engines.scorer import open_scorer

            both = isinstance(decode, BeamSearch)  # a search asks its model and its scorer in turn
            scorer = open_scorer(decode.scorer, self.setup.engine, (lambda: None) if both else self.close_engine)
        with (
            closing(scorer) if scorer is not None else nullcontext(),
            Bar(label or "questions", quiet=self.setup.quiet) as bar,
        ):
            return evaluate(
                system,
                self.task,
                self.engine(system.model),
                self.store,
                split=self.setup.split,
                questions=self.setup.questions,
                cost_to_make=cost_to_make,
                progress=bar.show,
                scorer=scorer,
            )

    def report(self, system: System, cost_to_make: CostToMake | None = None) -> Result:
        """Measure one System, and tell the result."""
        result = self.measure(system, cost_to_make)
        self.tell(system, result)
        return result

    def tell(self, system: System, result: Result) -> None:
        """Write a System and its result into the run's folder, and print the table of its one row."""
        from workbench.report import Rung, table

        self.run.write_system(system)
        self.run.write_result(result)
        rung = Rung(self.run.recipe.replace("_", " "), result, one_sample(result))
        print(table([rung], self.store.looks(self.task.hash, self.setup.split)))
        print(f"system {system_hash(system)}, run {self.run.path}")

    def __enter__(self) -> "Session":
        self.run.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_engine()
        self.store.close()
        self.run.__exit__(kind, error, trace)


@contextmanager
def open_making(recipe: str, config: Any, hashes: Mapping[str, Any]) -> Iterator[tuple[Run, Drawer]]:
    """The run of a recipe that makes data without a task, and what draws for it.

    Args:
        recipe: its name.
        config: its Config, with `model` (`ModelFlags`), `runs`, `name`, `overwrite` and `quiet`.
        hashes: of the files that the data depend on, by the names that they have in the run's settings.

    Raises:
        UserError: a file does not exist, or another process works in the same run.
    """
    model = {"model_hash": short_hash(model_identity(config.model.reference()))}
    content = {**content_of(config), **model, **hashes}
    with (
        Run.open(config.runs, recipe, content, name=config.name, overwrite=config.overwrite) as run,
        Store(config.runs / "completions.sqlite") as store,
        closing(Drawer(config.model.engine, store, config.quiet)) as drawer,
    ):
        yield run, drawer


def one_sample(result: Result) -> Interval | None:
    """For a vote, the accuracy of one sample of the same System."""
    metrics = dict(result.metrics)
    if "one_sample" not in metrics:
        return None
    return Interval(
        metrics["one_sample"], metrics["one_sample_low"], metrics["one_sample_high"], method="bootstrap"
    )


def content_of(config: Any) -> dict[str, Any]:
    """A recipe's Config as JSON data, without what does not change the result; files and folders by their content.

    Raises:
        UserError: there is no such data file, or no weights in a scorer's folder.
    """

    def plain(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            content = {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.name not in _NOT_CONTENT}
            content |= {name: content[name] is not None for name in _ONLY_WHETHER & content.keys()}
            named = {name: str(content[name]) for name in _FOLDERS & content.keys() if content[name]}
            content |= {name: folder_hash(folder) for name, folder in named.items() if Path(folder).is_dir()}
            if isinstance(value, Data) and value.file:  # the same path with new rows is another data set
                content["data_hash"] = file_hash(value.file)
            if isinstance(value, Pairs) and value.pairs:
                content["pairs_hash"] = file_hash(value.pairs)
            if (folder := reward_folder(value)) is not None:
                content["scorer"] = folder_hash(folder)
            content |= {name: file_hash(path) for name, path in own_prompts(value).items()}
            return content
        if isinstance(value, Path):
            return str(value)
        return to_json(value)

    data: dict[str, Any] = plain(config)
    return data


_LIKE = {"--task-args": "agreement=all", "--prompt-args": "level='a beginner'"}


def pairs(flag: str, arguments: Sequence[str]) -> dict[str, str]:
    """What was given as `flag name=value name=value`; of a name that is there twice, the last.

    Raises:
        UserError: an argument is no name=value.
    """
    values = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not name:
            raise UserError(f"{flag} takes name=value, as in {flag} {_LIKE[flag]}; {argument!r} is not that.")
        values[name] = value
    return values


def say(text: str) -> None:
    """A line for the person who waits, on stderr, so that stdout holds results only."""
    print(text, file=sys.stderr, flush=True)
