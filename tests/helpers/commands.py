"""How tests run a script as a user would, and what they expect where it fails."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from utils import ROOT

# The tiny model's likeliest tokens never end a response; drawn ones may end it before it can be stopped.
UNENDING = ("--max_new_tokens", "900", "--temperature", "0")


def run_script(*arguments, cwd: Path = ROOT, timeout: float = 300, **environment) -> subprocess.CompletedProcess:
    """Run `python <arguments>` as a user would and return what it printed."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def free_port() -> int:
    """A port of the loopback interface on which nobody listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def assert_fails_in_one_line(result: subprocess.CompletedProcess, *parts: str) -> None:
    """The run failed, its last line of stderr holds every part, and nowhere is there a traceback."""
    assert result.returncode not in (0, None), result.stdout + result.stderr
    assert "Traceback" not in result.stderr + result.stdout, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    for part in parts:
        assert part in last, f"{part!r} is not in {last!r}"
