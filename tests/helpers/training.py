"""What tests of train.py share: examples, flags as it parses them, and runs of one or more processes."""

import contextlib
import os
import signal
import subprocess

from alpaca.training import arguments
from tests.helpers import forks
from utils import ROOT

EXAMPLES = [
    {"instruction": "Name the capital of France.", "input": "", "output": "Paris."},
    {"instruction": "Sort the list.", "input": "pear, apple, fig", "output": "apple, fig, pear"},
    {"instruction": "Répète l'entrée {deux} fois.", "input": "ça\n\n🙂", "output": ": ça\n\n🙂 ça\n\n🙂"},
    {"instruction": "Say nothing.", "input": "", "output": ""},
    {"instruction": "Count to " + " ".join(map(str, range(200))), "input": "", "output": "No."},
]
FSDP = ["--fsdp", "full_shard auto_wrap", "--fsdp_transformer_layer_cls_to_wrap"]


def parse(*flags):
    return arguments.parse_arguments(["--data_path", "x.json", "--output_dir", "out", *flags])[-1]


def ranks(*arguments):
    return forks.ranks("train.py", *arguments)


def start(command):
    """Start a command in a process group of its own, one thread per rank, so that all of it can be killed."""
    if isinstance(command, forks.Command):
        return forks.Forks(command)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def kill(process):
    """End all that start() has started."""
    if isinstance(process, forks.Forks):
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def run(command, timeout=300):
    """Run a command to its end and return what it said on stderr; it must succeed."""
    process = start(command)
    try:
        stderr = process.communicate(timeout=timeout)[1]
    finally:
        kill(process)
    assert process.returncode == 0, stderr[-4000:]
    return stderr
