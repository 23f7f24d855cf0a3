"""Votes on dev against the right answers, in numbers and as a picture."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from workbench.decodes import Greedy, Sample
from workbench.drawing import Drawer
from workbench.engines import EngineConfig
from workbench.engines.base import Engine
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.instructing.reliability import Reading, calibration_section, diagram, entropy_change, read_dev
from workbench.prompts import load_prompt
from workbench.store import Store
from workbench.tasks.arithmetic import Config, load
from workbench.types import Model, Request, System

TASK = load(Config(practice=2, dev=3, test=2))
SYSTEM = System(Model("fake"), load_prompt("arithmetic"), Greedy(32))
BEFORE = Reading("before <b>", ("a", "b", "c"), (0.25, 0.5, 1.0), (False, True, True), (1.0, 0.5, 0.0))
AFTER = Reading("round 1", ("b", "c"), (1.0, 1.0), (True, False), (0.1, 0.0))


class Scripted(Drawer):
    def engine(self, model: Model) -> Engine:
        return FakeEngine(model, self.script)

    @staticmethod
    def script(request: Request, index: int) -> str:
        right = {e.id: e.target for e in TASK.dev}[request.id]
        place = [e.id for e in TASK.dev].index(request.id)
        if place == 2:
            raise ConnectionError("gone")
        if place == 1 and index:
            return "no idea"
        return right if place == 0 and index < 3 else "-77"


def test_the_share_of_a_majority_and_whether_it_is_right(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        reading = read_dev("x", SYSTEM, TASK, Sample(4), Scripted(EngineConfig("fake"), store, quiet=True))
    assert reading.ids == tuple(e.id for e in TASK.dev[:2]), "a question whose requests failed is left out"
    assert (reading.confidences, reading.right) == ((0.75, 0.25), (True, False))
    told = reading.as_json()
    assert told["questions"] == 2 and told["ece"] == pytest.approx(0.25) and told["mute"] == 0


def test_questions_without_an_answer_are_counted_and_do_not_make_a_model_look_calibrated(tmp_path: Path) -> None:
    class Mute(Scripted):
        @staticmethod
        def script(request: Request, index: int) -> str:
            place = [e.id for e in TASK.dev].index(request.id)
            return "-77" if place == 0 and index < 3 else "no idea"

    with Store(tmp_path / "s.sqlite") as store:
        reading = read_dev("x", SYSTEM, TASK, Sample(4), Mute(EngineConfig("fake"), store, quiet=True))
    assert (len(reading.ids), reading.mute, reading.confidences, reading.right) == (1, 2, (0.75,), (False,))
    assert reading.metrics()["ece"] == pytest.approx(0.75) and reading.metrics()["mute"] == 2
    assert "| x | 1 | 2 | 0.750 |" in calibration_section([reading], 4, "reliability.svg")
    assert "| round 1 | 2 | 0 | 0.500 |" in calibration_section([BEFORE, AFTER], 4, "reliability.svg")

    class Silent(Scripted):
        @staticmethod
        def script(request: Request, index: int) -> str:
            return "no idea"

    with Store(tmp_path / "t.sqlite") as store:
        silent = read_dev("y", SYSTEM, TASK, Sample(2), Silent(EngineConfig("fake"), store, quiet=True))
    assert (silent.ids, silent.mute, silent.metrics()["ece"], silent.as_json()["gap"]) == ((), 3, None, None)
    section = calibration_section([reading, silent], 4, "reliability.svg")
    assert f"| y | 0 | 3 {'| not defined ' * 5}|" in section
    ET.fromstring(diagram([reading, silent]))


def test_where_every_request_failed_there_is_no_reading(tmp_path: Path) -> None:
    class Dead(Scripted):
        @staticmethod
        def script(request: Request, index: int) -> str:
            raise ConnectionError("gone")

    with Store(tmp_path / "s.sqlite") as store, pytest.raises(UserError, match="all requests failed"):
        read_dev("x", SYSTEM, TASK, Sample(2), Dead(EngineConfig("fake"), store, quiet=True))


def test_entropy_is_compared_on_shared_questions() -> None:
    change = entropy_change(BEFORE, AFTER)
    assert change.value == pytest.approx((0.1 - 0.5 + 0.0) / 2)


def test_the_picture_is_an_svg_with_a_panel_for_each_model() -> None:
    root = ET.fromstring(diagram([BEFORE, AFTER]))
    kinds = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert kinds.count("circle") == 3 + 1, "one for each bin that holds a question"
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert "before <b>" in texts and "round 1" in texts


def test_the_section_tells_every_number_with_its_interval() -> None:
    section = calibration_section([BEFORE, AFTER], 8, "reliability.svg")
    assert "![Accuracy by confidence](reliability.svg)" in section
    assert "| round 1 | 2 | 0 | 0.500 |" in section and "not defined" in section
