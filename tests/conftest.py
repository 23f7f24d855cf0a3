"""What every test may use: two tiny models made on the spot, the embedded model, the data, an isolated home."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from tiny import CHATML, tiny_tokenizer, tiny_weights

from workbench.models import EMBEDDED, cache_folder, model_folder
from workbench.types import Model

settings.register_profile("no deadline", deadline=None)  # other work on the machine may take its time
settings.load_profile("no deadline")

# A shell that starts the tests in the background has them ignore Ctrl-C, and all that they start with them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before anything imports huggingface_hub, which reads it once: no test looks for a model on the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# The converted embedded model and matplotlib's list of fonts are made once, not once a test.
os.environ["WORKBENCH_CACHE"] = str(cache_folder())
os.environ.setdefault(
    "MPLCONFIGDIR",
    str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "matplotlib"),
)


@pytest.fixture(autouse=True)
def isolated_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's settings is read or written."""
    home = tmp_path_factory.mktemp("home")
    for kind in ("CONFIG", "CACHE", "DATA", "STATE"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(home / kind.lower()))


def _save(folder: Path, chat: bool) -> Path:
    tokenizer = tiny_tokenizer()
    if chat:
        tokenizer.chat_template = CHATML
    tiny_weights(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium, for the tests marked `browser`."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium, then pytest -m browser")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path)
        yield found
        found.close()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """A model as small as the tiny one is slower on two threads; and sums are added in one order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a chat model of two layers, float32."""
    return _save(tmp_path_factory.mktemp("models") / "tiny", chat=True)


@pytest.fixture(scope="session")
def tiny_base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model without a chat template."""
    return _save(tmp_path_factory.mktemp("models") / "tiny-base", chat=False)


@pytest.fixture(scope="session")
def embedded_model() -> Model:
    """The embedded model, fetched and converted if this machine does not have it yet."""
    from workbench.errors import UserError

    try:
        model_folder(EMBEDDED)
    except UserError as error:
        pytest.skip(f"the embedded model cannot be had: {error}")
    return Model(EMBEDDED)


REAL_VLLM: pytest.StashKey[Any] = pytest.StashKey()


@pytest.fixture(scope="session")
def real_vllm(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, embedded_model: Model
) -> Iterator[Any]:
    """A real vLLM server that the tests marked `vllm` share; it starts with the first `real_vllm.up()`."""
    from real_vllm import RealVllm

    server = request.session.stash[REAL_VLLM] = RealVllm(tmp_path_factory.mktemp("real-vllm"))
    yield server
    server.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of real servers come first, one after another; `pytest -n 2 --dist loadgroup` parts the others
    among its processes by file, so that each makes a file's fixtures once."""
    items.sort(key=lambda item: item.get_closest_marker("vllm") is None)
    for item in items:
        item.add_marker(pytest.mark.xdist_group("vllm" if item.get_closest_marker("vllm") else item.path.name))


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """The server that they share ends with the last of them: it is idle in no other's test."""
    last = nextitem is not None and item.get_closest_marker("vllm") and not nextitem.get_closest_marker("vllm")
    if last and REAL_VLLM in item.session.stash:
        item.session.stash[REAL_VLLM].close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Data sets that are not part of the repository: the folder `shared/data` beside or in the checkout."""
    root = Path(__file__).resolve().parents[1]
    for folder in (root.parent / "shared" / "data", root / "shared" / "data"):
        if folder.is_dir():
            return folder
    pytest.skip("no folder shared/data beside the checkout")
