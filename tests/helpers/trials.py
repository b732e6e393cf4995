"""The tries of the campaign: scripts in forks of this process, with a time to die, a small disk, or small limits."""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import faulthandler
import os
import resource
import runpy
import signal
import sys
import tempfile
import time
import traceback
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

from data.openai_server import OpenAIServer
from utils import ROOT

MAX_MEMORY_BYTES = 12 << 30  # of addresses: what a hostile file asks for must not end the machine


class Outcome(typing.NamedTuple):
    """How a script ended: code is None where it did not in time, and -9 where it was killed."""

    code: int | None
    printed: str  # stdout and stderr

    @property
    def is_traceback(self) -> bool:
        return "Traceback (most recent" in self.printed or (self.code or 0) not in (*range(256), -signal.SIGKILL)


def run_forked(
    command: list,
    folder: Path,
    kill_after_sec: float | None = None,
    max_file_bytes: int | None = None,
    stdin: bytes = b"",
    before: Callable[[], None] = lambda: None,
    timeout_sec: float = 60,
    **environment: str,
) -> Outcome:
    """Run `python <command>` in folder. before() is called in the fork, before the script."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        pid = os.fork()
        if pid == 0:
            _become(command, folder, output.fileno(), given.fileno(), max_file_bytes, before, environment, timeout_sec)
        code = _wait(pid, kill_after_sec, timeout_sec)
        output.seek(0)
        return Outcome(code, output.read().decode("utf-8", "replace"))


def _become(
    command, folder, output: int, given: int, max_file_bytes, before, environment, timeout_sec
) -> typing.NoReturn:
    code = 1
    try:
        os.setsid()
        for target, source in ((0, given), (1, output), (2, output)):
            os.dup2(source, target)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, mode, 1) for n, mode in enumerate(("r", "w", "w")))
        os.environ.update(environment)
        os.chdir(folder)
        faulthandler.dump_traceback_later(timeout_sec * 0.9)  # where a hang is
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
        if max_file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
        before()
        sys.argv = list(map(str, command))
        runpy.run_path(str(ROOT / command[0]), run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(code)


def _wait(pid: int, kill_after_sec: float | None, timeout_sec: float) -> int | None:
    end = time.monotonic() + (timeout_sec if kill_after_sec is None else kill_after_sec)
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -signal.SIGKILL if kill_after_sec is not None else None


@contextlib.contextmanager
def forked(serve: Callable[[int], None]) -> Iterator[int]:
    """A process of its own that runs serve(descriptor) until the block ends; what it writes there first, a port, is
    yielded."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reads)
        try:
            serve(writes)
        finally:
            os._exit(0)
    os.close(writes)
    try:
        yield int(os.read(reads, 100))
    finally:
        os.close(reads)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextlib.contextmanager
def openai_server(answer: Callable, **options) -> Iterator[dict[str, str]]:
    """The environment that leads to an OpenAIServer in a process of its own."""

    def serve(descriptor: int) -> None:
        with OpenAIServer(answer, **options) as server:
            os.write(descriptor, server.url.rpartition(":")[2].removesuffix("/v1").encode())
            signal.pause()

    with forked(serve) as port:
        yield {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": ""}
