"""Vectors by a real sentence-transformers folder, made on the spot; and encoders that are missing or refused."""

import builtins
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.exemplars import choose
from workbench.models import quiet_transformers
from workbench.sentence_encoder import sentence_vectors
from workbench.types import Example, Model, Selection, Shots

TEXTS = ["The cat sat.", "What is 7 + 8?", "Sales fell in the third quarter.", "The cat sat down."]


@pytest.fixture(scope="module")
def encoder(tiny_base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model and mean pooling, as sentence-transformers saves them."""
    pytest.importorskip("sentence_transformers", reason="pip install 'llm-workbench[sentence-transformers]'")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    folder = tmp_path_factory.mktemp("encoders") / "tiny"
    with quiet_transformers():
        SentenceTransformer(modules=[Transformer(str(tiny_base_model)), Pooling(32)], device="cpu").save(
            str(folder)
        )
    return folder


@pytest.fixture
def copy(encoder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(encoder, tmp_path / "encoder"))


def test_vectors_are_the_mean_of_the_transformers_states(encoder: Path, tiny_base_model: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    vectors = sentence_vectors(str(encoder), TEXTS)
    assert vectors.shape == (4, 32) and vectors.dtype == np.float32
    model, tokenizer = AutoModel.from_pretrained(tiny_base_model), AutoTokenizer.from_pretrained(tiny_base_model)
    for text, vector in zip(TEXTS, vectors, strict=True):
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        assert vector == pytest.approx(states.mean(0).numpy(), abs=1e-4)


def test_exemplars_are_its_nearest(encoder: Path) -> None:
    pool = tuple(Example.make(text, "?") for text in TEXTS[:3])
    question = Example.make(TEXTS[3], "?")
    vectors = sentence_vectors(str(encoder), TEXTS)
    cosines = [v @ vectors[-1] / np.linalg.norm(v) for v in vectors[:-1]]
    shots = Shots((*pool, question), 3, Selection.SENTENCE, encoder=str(encoder))
    [found] = choose(shots, [question], FakeEngine(Model("fake")))
    assert list(found) == [pool[i] for i in np.argsort(-np.array(cosines))], "and never the question itself"


def test_what_is_no_encoder_is_named(tiny_base_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    with pytest.raises(UserError, match=r"is no sentence-transformers model: it has no modules\.json"):
        sentence_vectors(str(tiny_base_model), TEXTS)
    with pytest.raises(UserError, match=r"has no config\.json"):
        sentence_vectors(str(tmp_path), TEXTS)
    for name in ("nowhere", str(tmp_path / "nowhere")):
        with pytest.raises(UserError, match="There is no model"):
            sentence_vectors(name, TEXTS)


def test_code_of_its_own_is_never_run(copy: Path) -> None:
    (copy / "own.py").write_text("raise SystemExit('ran')\n", encoding="utf-8")
    modules = json.loads((copy / "modules.json").read_text(encoding="utf-8"))
    modules[1]["type"] = "own.Pooling"
    (copy / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot be loaded: ValueError: .*own.Pooling"):
        sentence_vectors(str(copy), TEXTS)


def test_pickled_weights_are_refused(copy: Path) -> None:
    (copy / "2_Dense").mkdir()
    (copy / "2_Dense" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UserError, match=r"only as pytorch_model\.bin, which can run code"):
        sentence_vectors(str(copy), TEXTS)


def test_a_broken_encoder_is_said_in_one_line(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"The encoder .* cannot be loaded: [^\n]*$"):
        sentence_vectors(str(copy), TEXTS)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "sentence_transformers":
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"pip install 'llm-workbench\[sentence-transformers\]'"):
        sentence_vectors("anywhere", TEXTS)
