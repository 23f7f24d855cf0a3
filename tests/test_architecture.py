"""The shape of the project, read from the imports themselves: floors, no cycles, light recipes."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the top down. A file imports only from floors below its own, or from its own folder.
FLOORS = (
    ("ui.py",),
    ("recipes/",),
    (
        "workbench/ladder.py", "workbench/sensitivity.py", "workbench/steering.py", "workbench/sweep.py",
        "workbench/ui/", "workbench/report_parity_html.py",
    ),
    (
        "workbench/report_parity.py", "workbench/aligning.py", "workbench/equal_tokens.py",
        "workbench/ladder_estimate.py", "workbench/report_pool.py", "workbench/report_optimal.py",
        "workbench/compute_optimal.py", "workbench/history.py", "workbench/arena/", "workbench/comparing/",
        "workbench/forms.py", "workbench/jobs.py", "workbench/run_views/",
    ),
    ("workbench/rungs.py", "workbench/tuning.py", "workbench/parity/", "workbench/pooling.py"),
    ("workbench/methods/", "workbench/session.py"),
    (
        "workbench/searching/",
        "workbench/quantizing/",
        "workbench/instructing/",
        "workbench/preferring/",
        "workbench/before_after.py",
        "workbench/report_curves.py",
    ),
    ("workbench/forgetting.py", "workbench/talk.py"),
    (
        "workbench/harness.py", "workbench/drawing.py", "workbench/report_html.py", "workbench/publishing.py",
        "workbench/made_data.py", "workbench/pool_findings.py", "workbench/lending.py",
    ),
    (
        "workbench/report.py", "workbench/metrics.py", "workbench/pools.py", "workbench/step_metrics.py",
        "workbench/chat_terminal.py", "workbench/catalogue.py",
    ),
    (
        "workbench/report_forgetting.py", "workbench/chatting.py", "workbench/batch.py",
        "workbench/report_axes.py", "workbench/choice_metrics.py", "workbench/report_choice.py",
    ),
    (
        "workbench/decoding/", "workbench/training/", "workbench/serving/", "workbench/compare.py",
        "workbench/exemplars.py", "workbench/model_flags.py", "workbench/forgetting_flags.py",
        "workbench/conversation.py",
    ),
    ("workbench/engines/", "workbench/runs.py", "workbench/export.py", "workbench/doctor.py"),
    ("workbench/merging.py",),
    ("workbench/adapters.py", "workbench/sentence_encoder.py"),
    ("workbench/hub.py", "workbench/server_state.py"),
    (
        "workbench/tasks/", "workbench/models.py", "workbench/chat_template.py", "workbench/prompts.py",
        "workbench/store.py", "workbench/run_folder.py",
    ),
    ("workbench/prompt_files.py", "workbench/quantization.py", "workbench/own_kinds.py", "workbench/folders.py"),
    (
        "workbench/salvage.py", "workbench/cost.py", "workbench/files.py", "workbench/progress.py",
        "workbench/killable.py", "workbench/command.py", "workbench/launch.py",
        "workbench/form_fields.py",
    ),
    ("workbench/identity.py", "workbench/stats/", "workbench/inert.py"),
    ("workbench/proxy.py",),
    ("workbench/types.py",),
    ("workbench/decodes.py",),
    ("workbench/step_decodes.py",),
    ("workbench/sampling.py",),
    ("workbench/errors.py",),
)  # fmt: skip

LONGEST = 320

HEAVY = (
    "torch", "transformers", "trl", "peft", "datasets", "vllm", "gradio", "scipy", "matplotlib", "pandas",
    "pyarrow", "pynvml", "sentence_transformers", "bitsandbytes", "accelerate",
)  # fmt: skip
TUNING = ("adapters", "bitfit", "head", "lora", "prefix_tuning", "prompt_tuning", "qlora", "sft")


def source_files() -> dict[str, str]:
    """Module name → path, as "workbench.stats" → "workbench/stats/__init__.py"; empty files are left out."""
    paths = [*ROOT.glob("workbench/**/*.py"), *ROOT.glob("recipes/**/*.py"), *ROOT.glob("ui.py")]
    names = [path.relative_to(ROOT) for path in sorted(paths) if path.stat().st_size]
    return {".".join(name.with_suffix("").parts).removesuffix(".__init__"): name.as_posix() for name in names}


FILES = source_files()


@cache
def imports(module: str) -> frozenset[str]:
    """The project's modules that a module imports, also inside functions; its own name left out.

    A string that is a module's dotted name counts as an import: registries name modules so.
    """
    tree = ast.parse((ROOT / FILES[module]).read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{FILES[module]}:{node.lineno}: write the import with its full name."
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(submodules & FILES.keys())
            if not submodules <= FILES.keys():
                found.add(node.module or "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            found.add(node.value)
    return frozenset(found & FILES.keys() - {module})


def place(path: str) -> tuple[int, str]:
    """A file's floor, 0 at the bottom, and the entry of FLOORS that puts it there."""
    for floor, entries in enumerate(reversed(FLOORS)):
        for entry in entries:
            if path == entry or (entry.endswith("/") and path.startswith(entry)):
                return floor, entry
    raise AssertionError(
        f"{path} is on no floor. Add it to FLOORS in tests/test_architecture.py and to the table in "
        "CONTRIBUTING.md, above everything that it imports."
    )


@pytest.mark.parametrize("module", FILES)
def test_imports_point_down(module: str) -> None:
    floor, entry = place(FILES[module])
    for target in sorted(imports(module)):
        below, other = place(FILES[target])
        assert below < floor or other == entry, (
            f"{FILES[module]} imports {FILES[target]}, which is not on a floor below it: move what both need "
            "further down, or pass it in as an argument."
        )


def test_no_module_imports_itself_through_others() -> None:
    try:
        TopologicalSorter({module: imports(module) for module in FILES}).prepare()
    except CycleError as error:
        circle = " → ".join(reversed(error.args[1]))
        pytest.fail(f"import cycle: {circle}")


def test_the_table_in_contributing_is_these_floors() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = [entry for entry in re.findall(r"^\| `([^`]+)`", text, re.MULTILINE) if (ROOT / entry).exists()]
    assert listed == [entry for floor in FLOORS for entry in floor if (ROOT / entry).exists()]


def test_the_floors_are_told_apart() -> None:
    """The checks above see what they must: functions' imports, submodules, registries."""
    assert "workbench.engines.hf" in imports("workbench.engines"), "an import inside a function"
    assert "workbench.tasks.gsm8k" in imports("workbench.tasks"), "a name in a registry"
    assert "workbench.types" in imports("workbench.identity")
    assert place("workbench/stats/paired.py") == place("workbench/stats/__init__.py")
    with pytest.raises(AssertionError, match=r"workbench/new\.py is on no floor\. Add it to FLOORS"):
        place("workbench/new.py")


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ([name for name in FILES if name.startswith("recipes")], HEAVY),
        (["workbench.stats", "workbench.cost"], HEAVY),
        ([f"recipes.{name}" for name in TUNING], (*HEAVY, "numpy")),
    ],
    ids=["recipes", "statistics and cost", "numpy in recipes that tune"],
)
def test_importing_loads_nothing_heavy(modules: list[str], heavy: tuple[str, ...]) -> None:
    code = f"import sys, {', '.join(modules)}; print(*sorted({set(heavy)} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], "import heavy libraries inside the functions that need them"


@pytest.mark.parametrize("path", FILES.values())
def test_a_file_says_what_it_is_and_is_short(path: str) -> None:
    source = (ROOT / path).read_text(encoding="utf-8")
    lines = source.count("\n")
    assert lines <= LONGEST, f"{path} has {lines} lines, more than {LONGEST}: split off what has a name."
    first = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    assert first.endswith("."), f"{path} starts with {first!r}: one sentence on what the file is."
