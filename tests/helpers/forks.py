"""`python <arguments>` as a fork of a process that has imported the heavy libraries, which takes a script seconds.

The script itself runs from its first line, as __main__, in a process group of its own; libraries alone are there before
it. What is about the start itself (torchrun, a missing library, import times) is tested with `subprocess`.
"""

import atexit
import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import typing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.helpers.commands import free_port
from utils import ROOT

PRELOADED = ("transformers.trainer", "accelerate", "torch.distributed.fsdp", "datasets", "openai", "peft", "deepspeed")
PRELOADED += ("transformers.models.llama.modeling_llama", "transformers.models.opt.modeling_opt")
PRELOADED += ("gradio", "matplotlib.figure")
# Read when a library is imported, so that they hold for all forks.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
ENVIRONMENT |= {"DS_ACCELERATOR": "cpu", "GRADIO_ANALYTICS_ENABLED": "False"}
_context = multiprocessing.get_context("forkserver")


class Command(typing.NamedTuple):
    """What each process gets: a script, -m and a module, or -c and code, with what follows; variables of its own."""

    arguments: list[str]
    environments: list[dict[str, str]]


def python(*arguments) -> Command:
    """`python <arguments>`"""
    return Command([str(argument) for argument in arguments], [{}])


def ranks(*arguments, num_processes: int = 2) -> Command:
    """What `torchrun --nproc_per_node=2 <arguments>` starts."""
    world = {"WORLD_SIZE": num_processes, "LOCAL_WORLD_SIZE": num_processes}
    world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    environments = [{**world, "RANK": i, "LOCAL_RANK": i} for i in range(num_processes)]
    return Command(
        python(*arguments).arguments, [{name: str(value) for name, value in e.items()} for e in environments]
    )


class Forks:
    """The processes of one command, with as much of subprocess.Popen's interface as tests need."""

    def __init__(self, command: Command, cwd: Path = ROOT, stdin: str = "", **environment: str):
        before = {name: os.environ.get(name) for name in ENVIRONMENT}
        os.environ.update(ENVIRONMENT)
        try:
            _context.set_forkserver_preload(list(PRELOADED))  # the first of all forks starts the server
            given, *pipes = [_context.Pipe(duplex=False) for _ in range(3)]
            os.write(given[1].fileno(), stdin.encode())  # as much as a pipe holds, 64 kB
            child_ends = [given[0], *(writer for _, writer in pipes)]
            self._processes = [
                _context.Process(
                    target=_run, args=(command.arguments, str(cwd), {**os.environ, **environment, **own}, *child_ends)
                )
                for own in command.environments
            ]
            for process in self._processes:
                process.start()
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
        for end in (*child_ends, given[1]):
            end.close()
        self.stdout, self.stderr = (
            os.fdopen(os.dup(reader.fileno()), encoding="utf-8", errors="replace") for reader, _ in pipes
        )

    @property
    def returncode(self) -> int | None:
        codes = [process.exitcode for process in self._processes]
        return None if None in codes else next((code for code in codes if code), 0)

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        for process in self._processes:
            if process.exitcode is None:
                os.kill(process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        for process in self._processes:
            process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("python", timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that they print, and their end. Kills them and raises TimeoutExpired where that takes too long."""
        is_late = threading.Event()

        def end() -> None:
            is_late.set()
            self.kill()

        timer = threading.Timer(timeout or threading.TIMEOUT_MAX, end)
        timer.start()
        try:
            with ThreadPoolExecutor(2) as pool:
                stdout, stderr = pool.map(lambda stream: stream.read(), (self.stdout, self.stderr))
            self.wait()
        finally:
            timer.cancel()
            self.close()
        if is_late.is_set():
            raise subprocess.TimeoutExpired("python", timeout, stdout, stderr)
        return stdout, stderr

    def close(self) -> None:
        self.kill()
        self.wait()
        self.stdout.close()
        self.stderr.close()


def run(
    *arguments, cwd: Path = ROOT, timeout: float = 300, stdin: str = "", **environment
) -> subprocess.CompletedProcess:
    """Run `python <arguments>` to its end and return what it printed."""
    process = Forks(python(*arguments), cwd, stdin, **environment)
    stdout, stderr = process.communicate(timeout)
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


def _run(arguments: list[str], cwd: str, environment: dict, *streams) -> None:
    gc.freeze()  # else each collection goes through all of the libraries
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
    sys.stdin = os.fdopen(0, closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[1:1] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    os.chdir(cwd)
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            sys.path[0] = cwd
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        elif arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            sys.path[0] = cwd
            exec(arguments[1], {"__name__": "__main__"})
        else:
            script = Path(cwd, arguments[0])
            sys.argv = [arguments[0], *arguments[1:]]
            sys.path[0] = str(script.parent)
            runpy.run_path(str(script), run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # multiprocessing ends its processes without them
