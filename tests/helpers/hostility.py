"""What damages files and what a hostile server sends, for the campaign."""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import json
import os
import random
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.trials import forked

ODD_VALUES = [None, True, -1, 0, 5, 1e300, 10**400, "", "x" * 10**5, "\ud800", "\x1b[2J", [], [[]], {}, {"a": 1}]
ODD_VALUES += [float("nan"), float("-inf"), 2**63, [5], [None], "../../etc/passwd", "/dev/zero"]


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flip(data: bytes, rng: random.Random) -> bytes:
    position = rng.randrange(len(data))
    return data[:position] + bytes([data[position] ^ (1 << rng.randrange(8))]) + data[position + 1 :]


def change_a_value(data: bytes, rng: random.Random) -> bytes:
    """Another value, of any type, at a random place of a JSON text, of one of its lines, or of a safetensors header."""
    with contextlib.suppress(ValueError):
        return json.dumps(_changed(json.loads(data), rng)).encode()
    with contextlib.suppress(ValueError):
        size = int.from_bytes(data[:8], "little")
        header = json.dumps(_changed(json.loads(data[8 : 8 + size]), rng)).encode()
        return len(header).to_bytes(8, "little") + header + data[8 + size :]
    lines = data.split(b"\n")
    index = rng.randrange(len(lines))
    with contextlib.suppress(ValueError):
        lines[index] = json.dumps(_changed(json.loads(lines[index]), rng)).encode()
    return b"\n".join(lines)


def _changed(value, rng: random.Random):
    """value with one odd value somewhere in it."""
    if isinstance(value, dict | list) and value and rng.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = rng.choice(keys)
        if isinstance(value, dict) and rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        copy = dict(value) if isinstance(value, dict) else list(value)
        copy[key] = _changed(value[key], rng)
        return copy
    return rng.choice(ODD_VALUES)


# By whether the file cannot be right any more, whatever is in it: then no command may take it.
MAYBE_WRONG = {"truncated": truncate, "a flipped bit": flip, "another value": change_a_value}
SURELY_WRONG = {
    "empty": lambda data, rng: b"",
    "deep": lambda data, rng: b"[" * 100_000,
    "digits": lambda data, rng: b"9" * 5000 + b"\n",
    "not UTF-8": lambda data, rng: b"caf\xe9 " + data[:100] + b"\xff\n",
}
NO_FILES = ("a device", "a folder", "a loop of links")


def damage(path: Path, kind: str, rng: random.Random) -> None:
    """Put something hostile in the place of a file."""
    data = path.read_bytes()
    path.unlink()
    if kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a loop of links":
        path.symlink_to(path.name)
    else:
        path.write_bytes({**MAYBE_WRONG, **SURELY_WRONG}[kind](data, rng))


def copy_of(folder: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return shutil.copytree(folder, target, symlinks=True)


# ---- Servers ----

KEY = "sk-a-secret-of-the-campaign"
BODIES = {
    "nothing": b"",
    "HTML": b"<html>\x1b[2J</html>",
    "null": b"null",
    "a number": b"5",
    "digits": b"9" * 5000,
    "deep": b"[" * 200_000,
    "deep error": b'{"error":' * 50_000 + b"1" + b"}" * 50_000,
    "no choices": b'{"choices": []}',
    "choices: 5": b'{"choices": 5}',
    "choice: null": b'{"choices": [null]}',
    "choice without text": b'{"choices": [{"index": 0}]}',
    "text: a number": b'{"choices": [{"index": 0, "text": 5, "message": {"content": 5}}]}',
    "index: a text": b'{"choices": [{"index": "a", "text": "x"}, {"index": 0, "text": "y"}]}',
    "odd usage": b'{"choices": [{"text": "x", "message": {"content": "x"}}], "usage": 5, "model": {"a": 1}}',
    "half a pair": b'{"choices": [{"text": "\\ud800", "message": {"content": "\\ud800"}}], "model": "\\ud800"}',
    "escapes": b'{"choices": [{"text": "\\u001b[2J", "message": {"content": "\\u001b[2J"}}], "model": "\\u001b[31m"}',
    "the key": b'{"error": {"message": "key %s and \\u001b[31m", "code": "%s"}}' % (KEY.encode(), KEY.encode()),
    "the key in an answer": b'{"choices": [{"message": {"content": 5}}], "echo": "Bearer %s"}' % KEY.encode(),
    "the key as a model": b'{"choices": [{"text": "x", "message": {"content": "x"}}], "model": "%s"}' % KEY.encode(),
    "error: a list": b'[{"error": {"code": [5], "message": ["a"]}}]',
    "event of nothing": b"data: \n\ndata: 5\n\ndata: [DONE]\n\n",
    "event: null": b'data: {"choices": [null]}\n\n',
    "event: digits": b"data: " + b"9" * 5000 + b"\n\n",
}
HEADERS = {
    "odd date": b"Retry-After: Mon, 99 Foo 99999 99:99:99 GMT\r\n",
    "date of year 9999": b"Retry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\n",
    "nan": b"Retry-After: nan\r\n",
    "minus": b"Retry-After: -5\r\n",
    "gzip": b"Content-Encoding: gzip\r\n",
    "br": b"Content-Encoding: br\r\n",
    "elsewhere": b"Location: http://localhost:9/v1\r\n",
    "a file": b"Location: file:///etc/passwd\r\n",
    "no address": b"Location: http://[::1\r\n",
    "a loop": b"Location: /v1/chat/completions\r\n",
    "events": b"Content-Type: text/event-stream\r\n",
    "charset": b"Content-Type: application/json; charset=\xff\r\n",
}
RAW = {
    "nothing at all": b"",
    "garbage": bytes(range(256)) * 4,
    "half a status line": b"HTTP/1.1 20",
    "an odd status": b"HTTP/1.1 999 \x1b[2J\r\nContent-Length: 2\r\n\r\n{}",
    "a long header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    "a length that lies": b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
    "odd chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
}
ENDLESS = ("dribble", "flood", "silence")
STATUSES = (200, 204, 301, 302, 307, 400, 401, 403, 404, 409, 413, 418, 422, 429, 451, 500, 501, 503)


def replies(rng: random.Random, num_replies: int) -> list[tuple[str, bytes]]:
    """(name, bytes that a server sends) of every raw reply and of a choice of the others."""
    combined = []
    for status in STATUSES:
        for body_name, body in BODIES.items():
            header_name = rng.choice(list(HEADERS))
            head = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n" % (status, len(body))
            for name, header in (("", b""), (header_name, HEADERS[header_name])):
                combined.append((f"{status} {body_name} {name}".strip(), head + header + b"\r\n" + body))
    rng.shuffle(combined)
    fixed = list(RAW.items()) + [(name, b"") for name in ENDLESS]
    return fixed + combined[: max(0, num_replies - len(fixed))]


@contextlib.contextmanager
def hostile_server(name: str, reply: bytes) -> Iterator[dict[str, str]]:
    """The environment that leads to a server that gives every request the same reply."""

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.recv(1 << 20)
            connection.sendall(reply)
            if name in ENDLESS:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
            piece = {"dribble": b" ", "flood": b" " * (1 << 16)}.get(name, b"")
            while name in ENDLESS:
                connection.sendall(piece)
                time.sleep(0.05 if name != "flood" else 0)

    def serve(descriptor: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            os.write(descriptor, str(listener.getsockname()[1]).encode())
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    with forked(serve) as port:
        yield {"OPENAI_BASE_URL": f"http://me:pass-of-mine@127.0.0.1:{port}/v1?q=query-of-mine", "OPENAI_API_KEY": KEY}


# What a command must not print; "\x1b[A" moves its own bars.
SECRETS = (KEY, "pass-of-mine", "query-of-mine", "\x1b[2J", "\x1b[31m")
