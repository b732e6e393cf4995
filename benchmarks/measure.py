"""What the benchmarks share: measurements in processes of their own, medians, and files of results."""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import time
import typing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from utils import ROOT


def machine(*packages: str) -> str:
    """This machine, and the versions of Python and of packages."""
    versions = "".join(f", {package} {importlib.metadata.version(package)}" for package in packages)
    return f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}{versions}"


def in_own_process(function: Callable, *arguments) -> typing.Any:
    """What a function of a module returns, called in a new process, whose memory and bound cores are its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def result_of(command: list[str]) -> dict:
    """The JSON object in the last line that a command prints; ends this process with its errors where it fails."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    out = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if out.returncode:
        raise SystemExit(out.stderr[-3000:])
    return json.loads(out.stdout.strip().splitlines()[-1])


def usage_of(command: list, **environment: str) -> dict:
    """Time and memory of a command alone, run to its end, imports included; ends this process where it fails."""
    arguments, environment = list(map(str, command)), {**os.environ, **environment}
    start = time.perf_counter()
    with subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"failed: {' '.join(arguments)}")
    seconds, cpu_seconds = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    return {"sec": seconds, "cpu_sec": cpu_seconds, "peak_mb": usage.ru_maxrss / 1024}


def median_of(results: list[dict], key: str) -> dict:
    """The first result with the median of all under key, and (least, most) under "spread"."""
    values = [result[key] for result in results]
    return {**results[0], key: statistics.median(values), "spread": (min(values), max(values))}


def print_and_save(name: str, lines: list[str]) -> None:
    """Print the lines, and keep them as benchmarks/results/<name>.txt."""
    text = "\n".join(lines)
    (ROOT / "benchmarks" / "results" / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
    print(text)


def largest_difference(losses: list[float], reference: list[float]) -> float:
    """Of the losses of two runs, step by step."""
    return max(abs(a - b) for a, b in zip(losses, reference, strict=True))
