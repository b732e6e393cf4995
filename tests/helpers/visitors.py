"""Hostile visitors of the web pages, for the campaign."""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.browser import wait_for_port
from tests.helpers.commands import free_port
from tests.helpers.hostility import ODD_VALUES
from tests.helpers.trials import Outcome
from utils import ROOT

CLOSED = """
POST run/answer, POST run/0, POST api/answer, POST call/answer, POST call/v2/answer, POST upload, GET upload_progress,
GET file=/etc/passwd, GET file/etc/passwd, GET proxy=http://127.0.0.1:9, POST stream/0, POST component_server,
GET queue/status, GET info, GET openapi.json, GET monitoring, POST process_recording, GET vibe-code, POST vibe-edit,
GET profiling/traces, GET dev/reload, GET deep_link, POST run-history/connect, GET run-history/records,
GET custom_component/0/client/component/index.js, GET ../../etc/passwd, GET %2e%2e/%2e%2e/etc/passwd
""".replace("\n", " ").split(", ")
PAGE_PATH = "/gradio_api/queue/join"


class Page:
    """A page's server as a process, and how it is asked."""

    def __init__(self, process: subprocess.Popen, port: int):
        self.process, self.port = process, port

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> int:
        """The status of the answer; 0 where there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request(method, path, body, {"Content-Type": "application/json", **headers})
            return connection.getresponse().status
        return 0


@contextlib.contextmanager
def page_of(command: list, folder: Path, **environment: str) -> Iterator[Page]:
    port = free_port()
    with open(folder / "page.log", "w+") as log:
        process = subprocess.Popen(
            [sys.executable, ROOT / command[0], *command[1:], f"--port={port}"],
            cwd=folder,
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
        )
        try:
            wait_for_port(port, process)
            yield Page(process, port)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def attack_pages(table, command: list, name: str, folder: Path, **environment: str) -> None:
    """Ask for what is closed, from elsewhere, and for nonsense; then the page has to be there for others."""
    with page_of(command, folder, **environment) as page:
        inputs = 5 if name == "demo web" else 2
        with urllib.request.urlopen(f"http://127.0.0.1:{page.port}/config") as reply:
            functions = [f["id"] for f in json.load(reply)["dependencies"] if len(f["inputs"]) in (1, inputs)]
        statuses = {}
        for line in CLOSED:
            method, path = line.split()
            statuses[line] = page.ask(method, f"/gradio_api/{path}", b"{}"), page.ask(method, f"/{path}", b"{}")
        for header in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
            statuses[str(header)] = page.ask("POST", PAGE_PATH, join([""] * inputs, 0), **header), 0
        for case, codes in statuses.items():
            table.add("hostile visitor", name, case, Outcome(0, ""), accepted=int(200 in codes))
        bodies = {"deep": b"[" * 100_000, "digits": b"9" * 5000, "no UTF-8": b"\xff", "long": b" " * (2 << 20)}
        for function in (-1, 10**6, "a", None, [], 10**400):
            bodies[f"function {str(function)[:9]}"] = join([""] * inputs, function)
        for number, value in enumerate(ODD_VALUES):
            for position in range(inputs):
                data = ["Say hi.", "", 0.7, 0.9, 8][:inputs]
                data[position] = value
                bodies |= {f"value {number} at {position} of {i}": join(data, i) for i in functions}
            bodies |= {f"data {number} of {i}": join(value, i) for i in functions}
        for number, body in enumerate(bodies.values()):
            body = body.replace(b'"campaign"', b'"visitor %d"' % number)
            while page.ask("POST", PAGE_PATH, body) == 503 and page.process.poll() is None:  # the line is full
                time.sleep(0.05)
        time.sleep(3)
        is_there = page.process.poll() is None and page.ask("GET", "/") == 200
    # Gradio writes down what it cannot read, with a traceback; one that leads through the project's code is a bug.
    log = (folder / "page.log").read_text("utf-8", "replace")
    shown = log if re.search(rf'File "{ROOT}/(demo|compare|alpaca/evaluation)', log) else ""
    table.add("hostile visitor", name, f"{len(bodies)} bodies", Outcome(0 if is_there else None, shown))
    table.counts["hostile visitor", name]["tries"] += len(bodies) - 1


def join(data, function) -> bytes:
    """The body of a request for a place in the queue."""
    return json.dumps({"data": data, "fn_index": function, "session_hash": "campaign"}).encode()
