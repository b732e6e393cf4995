"""The tasks that the tests of compare.py give to models, and the kills that its runs get."""

import os
import signal
import subprocess
import sys
import time

from tests.helpers.commands import ROOT

TASKS = [{"instruction": f"Do thing {i}.", "input": f"part {i}" if i % 2 else ""} for i in range(40)]
FILTERED = (400, {"error": {"message": "The prompt was filtered.", "code": "content_filter"}})


def run_and_kill(arguments, environment, path, num_lines):
    """Start a script, kill it once path has num_lines lines, and say how many it had then."""
    process = subprocess.Popen([sys.executable, *map(str, arguments)], cwd=ROOT, env={**os.environ, **environment})
    return kill_at(process, path, num_lines)


def kill_at(process, path, num_lines):
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < num_lines:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return path.read_bytes().count(b"\n")
