"""A local server with OpenAI's completions and chat API that plays recorded completions, with faults on request.

Each line of the recordings is {"prompt": ..., "completion": ..., "finish_reason": ...}. Prompts are looked up by their
text (for the chat API, that of the last message); one that is recorded several times gets its completions in turn.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import collections
import http.server
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable

# Refusals in the words of OpenAI, transformers serve and vLLM.
CHAT_ONLY = "This is a chat model and not supported in the v1/completions endpoint. Did you mean v1/chat/completions?"
FAULTS = {
    "rate limit": (429, {"error": {"message": "Rate limit reached for requests", "code": "rate_limit_exceeded"}}),
    "server error": (500, {"error": {"message": "The server had an error while processing your request."}}),
    "overloaded": (503, {"error": {"message": "That model is currently overloaded."}}),
    "wrong key": (401, {"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}}),
    "no permission": (403, {"error": {"message": "You are not allowed to use this model."}}),
    "unknown model": (404, {"error": {"message": "The model `x` does not exist", "code": "model_not_found"}}),
    "no quota": (429, {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}}),
    "no choices": (200, {"choices": []}),
    "error with status 200": (200, {"error": {"message": "upstream failed"}}),
    "not JSON": (200, "<html>Bad gateway</html>"),
    "another JSON": (200, ["choices"]),
    "dropped": None,  # the connection, before the answer
    "silent": None,  # no answer at all
    "cut": (200, {"choices": [{"text": "half of this"}]}),  # the connection, within the answer
    "cut refusal": (400, {"error": {"message": "half of this"}}),
}


class OpenAIServer:
    """The server on a free port of the loopback interface, in threads of this process: `with OpenAIServer(...)`.

    answer(prompt) returns a completion, or (completion, finish reason), or None for a prompt that it does not know, or
    (status, body) for one that is to be refused.
    faults is called with the number of the request, from 0, and returns the name of a fault, or None, or a whole
    (status, body) or (status, body, headers). kind "transformers" refuses a list of prompts, "vllm" a logit_bias,
    and "chat" the completions API. context_tokens is the limit of prompt and completion together, in words.
    """

    def __init__(
        self,
        answer: Callable,
        latency_sec: float = 0.0,
        faults: Callable = lambda number: None,
        kind: str = "openai",
        context_tokens: float = float("inf"),
        reports_usage: bool = True,
    ):
        self.answer, self.latency_sec, self.faults, self.kind = answer, latency_sec, faults, kind
        self.context_tokens, self.reports_usage = context_tokens, reports_usage
        self.requests: list[dict] = []  # as they came: path, headers, body, start and end in seconds
        self.num_under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> "OpenAIServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """What a script needs to find this server, and nothing else."""
        no_proxy = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}  # which would see requests to this machine
        return {"OPENAI_BASE_URL": self.url, "OPENAI_API_KEY": "test-key", **no_proxy}

    def reply(self, path: str, body: dict) -> tuple[int, object]:
        """Status and body of the answer to a request that meets no fault."""
        is_chat = path == "/v1/chat/completions"
        if not is_chat and path != "/v1/completions":
            return 404, {"detail": "Not Found"}
        prompts = [body["messages"][-1]["content"]] if is_chat else body["prompt"]
        if refusal := self._refusal(is_chat, body, prompts):
            return refusal
        choices, num_tokens = [], {"prompt_tokens": 0, "completion_tokens": 0}
        for index, prompt in enumerate([prompts] if isinstance(prompts, str) else prompts):
            answer = self.answer(prompt)
            if answer is None:
                return 422, {"error": {"message": f"nothing recorded for this: ...{prompt[-200:]!r}"}}
            if isinstance(answer, tuple) and isinstance(answer[0], int):
                return answer
            text, finish_reason = answer if isinstance(answer, tuple) else (answer, "stop")
            content = {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
            choices.append({"index": index, "finish_reason": finish_reason, **content})
            num_tokens["prompt_tokens"] += len(prompt.split())
            num_tokens["completion_tokens"] += len((text or "").split())
        usage = {"usage": {**num_tokens, "total_tokens": sum(num_tokens.values())}} if self.reports_usage else {}
        kind = "chat.completion" if is_chat else "text_completion"
        return 200, {"id": "0", "object": kind, "created": 0, "model": body["model"], "choices": choices, **usage}

    def _refusal(self, is_chat: bool, body: dict, prompts: str | list[str]) -> tuple[int, object] | None:
        if self.kind == "chat" and not is_chat:
            return 404, {"error": {"message": CHAT_ONLY, "type": "invalid_request_error", "param": "model"}}
        if self.kind == "transformers" and not is_chat and not isinstance(prompts, str):
            return 400, {"detail": "prompt must be a string."}
        if self.kind == "vllm" and "logit_bias" in body:
            message = f"token_id(s) {list(body['logit_bias'])} in logit_bias contain out-of-vocab token ids."
            return 400, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400}}
        longest = max(len(prompt.split()) for prompt in ([prompts] if isinstance(prompts, str) else prompts))
        max_tokens = body.get("max_tokens", 16)
        if longest + max_tokens > self.context_tokens:
            message = (
                f"This model's maximum context length is {self.context_tokens} tokens, however you requested "
                f"{longest + max_tokens} tokens. Please reduce your prompt; or completion length."
            )
            return 400, {"error": {"message": message, "type": "invalid_request_error"}}
        return None


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    owner: OpenAIServer

    def handle_error(self, request, client_address):
        """A client that was killed is no error here."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open, as with the real servers
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self):
        owner = self.server.owner
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with owner.lock:
            number = len(owner.requests)
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = {"path": self.path, "headers": headers, "body": body, "start": time.perf_counter()}
            owner.requests.append(request)
            owner.num_under_way += 1
            owner.most_under_way = max(owner.most_under_way, owner.num_under_way)
        try:
            self._answer(owner, number, body)
        finally:
            with owner.lock:
                owner.num_under_way -= 1
                request["end"] = time.perf_counter()

    def do_GET(self):
        self._send(200, {"object": "list", "data": [{"id": "local", "object": "model"}]})

    def _answer(self, owner: OpenAIServer, number: int, body: dict) -> None:
        fault = owner.faults(number)
        if fault == "silent":
            owner.stopped.wait(600)
        owner.stopped.wait(owner.latency_sec)
        if fault in ("dropped", "silent"):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif isinstance(fault, tuple):
            self._send(*fault)
        elif FAULTS.get(fault):
            self._send(*FAULTS[fault], is_cut=fault.startswith("cut"))
        elif body.get("stream"):
            self._stream(*owner.reply(self.path, body))
        else:
            self._send(*owner.reply(self.path, body))

    def _send(self, status: int, body, headers: dict[str, str] | None = None, is_cut: bool = False) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        content_type = "text/html" if isinstance(body, str) else "application/json"
        for name, value in {"Content-Type": content_type, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if is_cut else data)
        if is_cut:
            self.close_connection = True

    def _stream(self, status: int, reply) -> None:
        """The reply word by word, as server-sent events."""
        if status != 200:
            return self._send(status, reply)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        choice = reply["choices"][0]
        is_chat = "message" in choice
        words = (choice["message"]["content"] if is_chat else choice["text"]).split(" ")
        for i, word in enumerate([*words, None]):
            text = None if word is None else word if i == 0 else f" {word}"
            content = {"delta": {"content": text} if text else {}} if is_chat else {"text": text or ""}
            reason = choice["finish_reason"] if word is None else None
            chunk = {**reply, "choices": [{"index": 0, "finish_reason": reason, **content}]}
            chunk["object"] = "chat.completion.chunk" if is_chat else "text_completion"
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def log_message(self, *_):
        """Nothing on stderr."""


def recorded_answers(path: str) -> Callable[[str], tuple[str, str] | None]:
    """An answer function that plays the recordings in a JSON lines file."""
    completions = collections.defaultdict(list)
    with open(path, encoding="utf-8") as f:
        for recording in map(json.loads, filter(str.strip, f)):
            answer = (recording["completion"], recording.get("finish_reason", "stop"))
            completions[recording["prompt"]].append(answer)
    turns = {prompt: itertools.cycle(answers) for prompt, answers in completions.items()}
    # next() is atomic, and the server answers in threads.
    return lambda prompt: next(turns[prompt]) if prompt in turns else None


def completion_of(tasks: list[dict], first_number: int = 4) -> str:
    """The text that a teacher writes behind `{first_number}. Instruction:` for these tasks."""
    text = ""
    for number, task in enumerate(tasks, start=first_number):
        text += f"###\n{number}. Instruction: {task['instruction']}\n"
        text += f"{number}. Input:\n{task['input'] or '<noinput>'}\n{number}. Output:\n{task['output']}\n"
    return text.removeprefix(f"###\n{first_number}. Instruction:")


def answers_with(tasks: list[dict], tasks_per_completion: int = 10):
    """An answer function that plays the tasks in order, whatever the prompts, and then has nothing new."""
    completions = [
        completion_of(tasks[i : i + tasks_per_completion]) for i in range(0, len(tasks), tasks_per_completion)
    ]
    turns = iter(completions)  # next() is atomic, and the server answers in threads
    return lambda prompt: next(turns, "")
