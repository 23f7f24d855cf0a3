"""What every test may use: two tiny models made on the spot, the embedded model, the data, an isolated home."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench.models import EMBEDDED, cache_folder, model_folder
from workbench.types import Model

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

SENTENCES = (
    "What is 12 plus 7? The answer is 19.",
    "Operating profit rose to 13.1 million euros from 8.7 million a year earlier.",
    "The sentence is positive, negative or neutral. Answer with one word.",
    "You are a helpful assistant. You answer the user's question step by step.",
    "A café in Zürich sells 3 naïve postcards for 4.50 each; two cost 9.",
    "def add(first, second):\n    return first + second\n",
    "First we multiply 6 by 7, which is 42, and then we take away 5, which leaves 37.",
    "The company said that sales fell in the third quarter, and shares went down.",
)
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(autouse=True)
def isolated_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's settings is read or written."""
    home = tmp_path_factory.mktemp("home")
    for kind in ("CONFIG", "CACHE", "DATA", "STATE"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(home / kind.lower()))


def tiny_tokenizer() -> Any:
    """A byte-level BPE of some 500 tokens, with SmolLM2's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<|endoftext|>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    )


def tiny_weights(vocabulary: int, seed: int = 0) -> Any:
    """A two-layer Llama, randomly initialised: wide enough that its logits differ from token to token."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config).float().eval()


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


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Data sets that are not part of the repository: the folder `shared/data` beside or in the checkout."""
    root = Path(__file__).resolve().parents[1]
    for folder in (root.parent / "shared" / "data", root / "shared" / "data"):
        if folder.is_dir():
            return folder
    pytest.skip("no folder shared/data beside the checkout")
