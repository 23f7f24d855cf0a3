"""Models lent: loaded once, freed when others need the room, never while they are in use."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from workbench.catalogue import Entry
from workbench.engines import EngineConfig
from workbench.engines.fake import FakeEngine
from workbench.errors import UserError
from workbench.lending import AT_ONCE, Lender
from workbench.types import Model


def entry(name: str, engine: Any = "hf") -> Entry:
    return Entry(f"key-{name}", name, Model(name), EngineConfig(engine), f"weights-{name}")


class Shelf:
    """Opens fake engines, and tells which are open."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.opened = 0

    def __call__(self, model: Any, config: EngineConfig) -> FakeEngine:
        engine = FakeEngine(Model("fake"))
        self.open.append(model.base)
        self.opened += 1
        engine.close = lambda: self.open.remove(model.base)  # type: ignore[method-assign]
        return engine


def use(lender: Lender, which: Entry) -> None:
    with lender.lent(which) as speaker, speaker.working():
        pass


def test_a_model_is_loaded_when_it_is_first_used_and_once() -> None:
    shelf = Shelf()
    lender = Lender(2, shelf)
    with lender.lent(entry("a")) as speaker:
        assert shelf.open == []
        with speaker.working() as engine, lender.lent(entry("a")) as again:
            assert again is speaker and engine is speaker.engine
    use(lender, entry("a"))
    assert (shelf.open, shelf.opened) == (["a"], 1)
    assert lender.close() and shelf.open == []


def test_the_one_that_was_not_used_for_the_longest_time_makes_room() -> None:
    shelf = Shelf()
    lender = Lender(2, shelf)
    for name in ("a", "b", "a", "c"):
        use(lender, entry(name))
    assert shelf.open == ["a", "c"]


def test_a_model_in_use_is_not_freed() -> None:
    shelf = Shelf()
    lender = Lender(1, shelf)
    with lender.lent(entry("a")) as speaker:
        with speaker.working():
            pass
        with pytest.raises(UserError, match="1 models are in use"), lender.lent(entry("b")):
            pass
        assert shelf.open == ["a"]
    use(lender, entry("b"))
    assert shelf.open == ["b"]


def test_servers_need_no_room() -> None:
    shelf = Shelf()
    lender = Lender(1, shelf)
    with lender.lent(entry("a")), lender.lent(entry("s", "vllm")) as served, lender.lent(entry("t", "fake")):
        assert served.at_once == AT_ONCE
    with lender.lent(entry("a")) as inside:
        assert inside.at_once == 1


def test_many_at_once_load_one_model(tmp_path: Path) -> None:
    shelf = Shelf()
    lender = Lender(2, shelf)
    threads = [threading.Thread(target=use, args=(lender, entry("a"))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shelf.opened == 1


def test_models_are_loaded_one_after_another() -> None:
    busy, most = [], []

    def open(model: Any, config: EngineConfig) -> FakeEngine:
        busy.append(model)
        most.append(len(busy))
        time.sleep(0.05)
        busy.pop()
        return FakeEngine(Model("fake"))

    lender = Lender(4, open)
    threads = [threading.Thread(target=use, args=(lender, entry(name))) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]
