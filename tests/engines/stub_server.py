"""An OpenAI-compatible server of a few lines that misbehaves on demand, on a port of its own.

Sample i of a request with the seed s has the text `seed s+i`, as vLLM gives its samples their seeds. A fault
takes a handler and the request's body and answers in the server's place; `faults` are used up in order.
"""

import itertools
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = Callable[["Handler", dict[str, Any]], None]
KEY = "sk-secret-0123456789"


class Handler(BaseHTTPRequestHandler):
    server: "StubServer"
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/version" and self.server.is_vllm:
            self.reply(200, {"version": "0.32.0"})
        elif self.path == "/v1/models" and self.authorized():
            cards = [
                {"id": name, "root": f"{self.server.root}/{name}", "max_model_len": self.server.context}
                for name in self.server.names
            ]
            cards += [
                {"id": name, "root": f"/adapters/{name}", "parent": self.server.names[0]}
                for name in self.server.adapters
            ]
            self.reply(200, {"object": "list", "data": cards})
        else:
            self.reply(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.calls.append((time.monotonic(), self.path, body))
            fault = self.server.faults.pop(0) if self.server.faults else self.server.always
        if fault:
            fault(self, body)
        elif self.authorized() and body.get("stream"):
            streamed()(self, body)
        elif self.authorized():
            self.reply(200, good_answer(self.path, body))

    def authorized(self) -> bool:
        told = self.headers.get("authorization")
        if self.server.key and told != f"Bearer {self.server.key}":
            self.reply(401, {"error": {"message": f"{told} is not the key"}})
            return False
        return True

    def reply(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def until_left(self) -> None:
        """Wait until the client closes the connection."""
        self.connection.settimeout(10)
        with suppress(ConnectionError):
            assert self.connection.recv(1) == b"", "the client said more"
        self.server.left.release()
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Quiet."""


class StubServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # with the 5 of the library, a client of a busy machine waits a second to connect

    def __init__(self, names: tuple[str, ...] = ("model",), key: str | None = None, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.names = names
        self.key = key
        self.is_vllm = True
        self.context: int | None = 2048
        self.root = "/models"
        self.adapters: tuple[str, ...] = ()  # served names of adapters on the first model
        self.left = threading.Semaphore(0)  # released for every client that closed its connection
        self.faults: list[Fault] = []
        self.always: Fault | None = None  # once `faults` are used up
        self.calls: list[tuple[float, str, dict[str, Any]]] = []  # (time, path, body) of every POST
        self.lock = threading.Lock()
        self.port = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for _, _, body in self.calls]

    @property
    def waits(self) -> list[float]:
        """Seconds from each POST to the next."""
        times = [when for when, _, _ in self.calls]
        return [later - earlier for earlier, later in itertools.pairwise(times)]

    def die(self) -> None:
        """From now on connections are refused."""
        self.shutdown()
        self.server_close()

    def handle_error(self, *args: object) -> None:
        """A client that went away is part of the tests."""


def good_answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """What a healthy server says. A token is a character; each has the log-probability -0.5."""
    if path == "/tokenize":
        text = body["prompt"] if "prompt" in body else "".join(m["content"] for m in body["messages"])
        return {"tokens": [ord(character) for character in text]}
    if body.get("echo"):
        choices = []
        for i, prompt in enumerate(body["prompt"]):
            own = [{f"token_id:{token}": -0.5 * (token % 7)} for token in prompt]
            scores = [score for place in own for score in place.values()]
            told = [likeliest(body["logprobs"]) | place for place in own]
            logprobs = {"token_logprobs": [None, *scores[1:]], "top_logprobs": [None, *told[1:]]}
            choices.append({"index": i, "text": "", "logprobs": logprobs, "finish_reason": "length"})
        return {"choices": choices, "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    if "logprob_token_ids" in body or isinstance(body.get("prompt_embeds"), list):
        ids = body.get("logprob_token_ids")
        told = {f"token_id:{token}": -0.5 * (token % 7) for token in ids or ()} or likeliest(body["logprobs"])
        choices = [
            {"index": i, "text": "x", "logprobs": {"top_logprobs": [told]}, "finish_reason": "length"}
            for i in range(len(body.get("prompt_embeds") or body["prompt"]))
        ]
        return {"choices": choices, "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    choices = []
    for i in range(body["n"]):
        text = f"seed {body['seed'] + i}"
        choice: dict[str, Any] = {"index": i, "finish_reason": "stop"}
        if path == "/v1/chat/completions":
            choice["message"] = {"role": "assistant", "content": text}
            choice["logprobs"] = {"content": [{"token": c, "logprob": -0.5} for c in text]}
        else:
            choice["text"] = text
            choice["logprobs"] = {"token_logprobs": [-0.5 for _ in text]}
        choices.append(choice)
    total = sum(len(f"seed {body['seed'] + i}") for i in range(body["n"]))
    return {"choices": choices, "usage": {"prompt_tokens": 11, "completion_tokens": total}}


def likeliest(count: int) -> dict[str, float]:
    """The most likely tokens of any place: 1000, 1001, …, told from the least likely on."""
    return {f"token_id:{1000 + k}": -0.25 - k for k in reversed(range(count))}


def good_events(path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """What a healthy server streams: the good answer a character an event, its end, and what it counted."""
    whole = good_answer(path, body)
    text = f"seed {body['seed']}"
    events: list[dict[str, Any]] = []
    if path == "/v1/chat/completions":
        events.append({"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None})
    for character in text:
        if path == "/v1/chat/completions":
            logprobs: Any = {"content": [{"token": character, "logprob": -0.5}]}
            events.append({"index": 0, "delta": {"content": character}, "logprobs": logprobs})
        else:
            logprobs = {"token_logprobs": [-0.5]}
            events.append({"index": 0, "text": character, "logprobs": logprobs})
    events[-1]["finish_reason"] = "stop"
    chunks: list[dict[str, Any]] = [{"choices": [event]} for event in events]
    return [*chunks, {"choices": [], "usage": whole["usage"]}]


# --- faults -----------------------------------------------------------------------------------------


def status(code: int, words: str = "", **headers: str) -> Fault:
    """An error as vLLM words it; a header's name has underscores for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, body: handler.reply(code, {"error": {"message": words, "code": code}}, named)


def garbage(content: object) -> Fault:
    """A status of 200 with something else than an answer."""
    return lambda handler, body: handler.reply(200, content)


def edited(edit: Callable[[dict[str, Any]], object]) -> Fault:
    """A good answer after `edit` has changed it."""

    def fault(handler: Handler, body: dict[str, Any]) -> None:
        answer = good_answer(handler.path, body)
        edit(answer)
        handler.reply(200, answer)

    return fault


def streamed(
    edit: Callable[[list[Any]], object] = lambda events: None, *, end: str = "whole", done: bool = True
) -> Fault:
    """Good events after `edit` has changed them, in place; bytes among them are sent as they are.

    Args:
        edit: changes the list of events.
        end: `whole` ends the stream as it should be, `cut` closes the connection, `reset` resets it, `hang` says
            nothing more until the client leaves.
        done: whether `[DONE]` is said.
    """

    def fault(handler: Handler, body: dict[str, Any]) -> None:
        events: list[Any] = good_events(handler.path, body)
        edit(events)
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream; charset=utf-8")
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        for event in [*events, *([b"data: [DONE]\n\n"] if done and end == "whole" else [])]:
            if isinstance(event, bytes):
                handler.chunk(event)
            else:
                handler.chunk(b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n")
        if end == "whole":
            handler.wfile.write(b"0\r\n\r\n")
        elif end == "cut":
            handler.close_connection = True
        elif end == "reset":
            reset(handler, body)
        else:
            handler.until_left()

    return fault


def waits(handler: Handler, body: dict[str, Any]) -> None:
    """No answer, until the client leaves."""
    handler.until_left()


def reset(handler: Handler, body: dict[str, Any]) -> None:
    """The connection breaks with a TCP reset before anything was said."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def half(handler: Handler, body: dict[str, Any]) -> None:
    """The connection ends in the middle of the answer."""
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"index": 0, "text": "an answer')
    handler.close_connection = True


def hang(handler: Handler, body: dict[str, Any]) -> None:
    """No word for two seconds."""
    time.sleep(2)
    handler.close_connection = True
