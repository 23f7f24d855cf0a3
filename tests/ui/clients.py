"""A browser's part of the page's traffic without a browser: many at once, and what no browser would send."""

import json
import re
import secrets
from collections.abc import Iterator
from typing import Any

import httpx


class Client:
    """One visitor with one tab open, as Gradio's own client in a browser would ask.

    Args:
        url: of the page.
    """

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=60)
        self.html = self.http.get("/").text
        self.session = secrets.token_hex(6)
        found = re.search(r"window\.gradio_config = (\{.*?\});\s*(?:window|</script>)", self.html, re.DOTALL)
        assert found, "the page holds no config"
        self.config = json.loads(found[1])
        self.components = {one["id"]: one for one in self.config["components"]}
        self.ids = {one["props"].get("elem_id"): one["id"] for one in self.config["components"]}

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *raised: object) -> None:
        self.http.close()

    def load(self) -> None:
        """What a browser asks for when the page is there, with what the page's controls hold then."""
        for one in self.config["dependencies"]:
            if one["backend_fn"] and any(event == "load" for _, event in one["targets"]):
                *_, last, _ = self._heard(one, None)
                assert last["success"], last
                for id, value in zip(one["outputs"], last["output"]["data"], strict=True):
                    self._set(id, value)

    def listener(self, elem_id: str, event: str) -> dict[str, Any]:
        """What is called on the server when that happens to that component."""
        target = [self.ids[elem_id], event]
        return next(one for one in self.config["dependencies"] if target in one["targets"] and one["backend_fn"])

    def body(self, elem_id: str, event: str, values: dict[str, Any], data: Any = None) -> dict[str, Any]:
        """The request that a browser sends for it.

        Args:
            elem_id, event: of the component, as `("chat-send", "click")`.
            values: of input components by elem_id; others have the value that they had on load.
            data: the event's own.
        """
        for name, value in values.items():
            self._set(self.ids[name], value)
        return self._body(self.listener(elem_id, event), self.ids[elem_id], data)

    def join(self, body: dict[str, Any]) -> httpx.Response:
        """Put it into the queue."""
        return self.http.post("/gradio_api/queue/join", json=body)

    def events(self) -> Iterator[dict[str, Any]]:
        """What the server says, until it has no more to say."""
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line[6:])

    def trigger(
        self, elem_id: str, event: str, values: dict[str, Any], data: Any = None
    ) -> Iterator[dict[str, Any]]:
        """Let it happen, and hear what comes of it; components hold what the last update gave them."""
        answer = self.join(self.body(elem_id, event, values, data))
        assert answer.status_code == 200, answer.text
        for told in self.events():
            yield told
            if told["msg"] == "process_completed" and told["success"]:
                for id, value in zip(
                    self.listener(elem_id, event)["outputs"], told["output"]["data"], strict=True
                ):
                    self._set(id, value)

    def _heard(self, listener: dict[str, Any], data: Any) -> list[dict[str, Any]]:
        answer = self.join(self._body(listener, None, data))
        assert answer.status_code == 200, answer.text
        return list(self.events())

    def _body(self, listener: dict[str, Any], trigger: int | None, data: Any) -> dict[str, Any]:
        held = [self.components[id] for id in listener["inputs"]]
        return {
            "data": [None if one["type"] == "state" else one["props"].get("value") for one in held],
            "event_data": data,
            "fn_index": listener["id"],
            "trigger_id": trigger,
            "session_hash": self.session,
        }

    def _set(self, id: int, value: Any) -> None:
        if isinstance(value, dict) and value.get("__type__") == "update":
            if "value" not in value.get("props", value):
                return
            value = value.get("props", value)["value"]
        self.components[id]["props"]["value"] = value
