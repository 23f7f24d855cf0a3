"""Hashes: what must change them, and what must not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from workbench.decodes import Greedy, LabelLikelihood
from workbench.identity import from_json, short_hash, system_hash, to_json
from workbench.types import Example, Message, Model, Prompt, Selection, Shots, System

POOL = (Example.make("a question", "an answer"),)
SYSTEM = System(Model("fake"), Prompt("p", (Message("user", "{{ input }}"),)), Greedy())


def with_encoder(folder: Path) -> System:
    shots = Shots(POOL, 1, Selection.SENTENCE, encoder=str(folder))
    return replace(SYSTEM, prompt=replace(SYSTEM.prompt, shots=shots))


def test_a_field_that_has_its_default_is_not_in_the_hash_and_is_in_the_file() -> None:
    """A later version's new field leaves what is stored where it is."""
    assert to_json(LabelLikelihood(), defaults=False) == {"type": "LabelLikelihood"}
    assert to_json(LabelLikelihood(True), defaults=False) == {"type": "LabelLikelihood", "normalize": True}
    assert set(to_json(LabelLikelihood())) == {"type", "normalize", "content_free"}
    assert from_json(to_json(SYSTEM, defaults=False)) == SYSTEM
    assert short_hash(LabelLikelihood()) != short_hash(LabelLikelihood(True)) != short_hash(Greedy())
    # Written down on purpose: stores that exist hold these keys.
    assert short_hash(Greedy()) == "6bf81f839725ea98"


def test_an_encoder_is_hashed_by_its_weights_wherever_they_lie(tmp_path: Path) -> None:
    for name, value in (("one", 1.0), ("two", 1.0), ("other", 2.0)):
        part = tmp_path / name / "0_Transformer"
        part.mkdir(parents=True)
        save_file({"w": np.full(3, value, dtype=np.float32)}, part / "model.safetensors")
    one, two, other = (system_hash(with_encoder(tmp_path / name)) for name in ("one", "two", "other"))
    assert one == two != other
    assert system_hash(with_encoder(Path("organisation/encoder"))) != one
