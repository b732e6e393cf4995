"""Compare outputs with what can be computed.

Of the seed tasks: verifications.py. Of the data: verifications.jsonl, and code_verifications.py for code that is run.

A line of verifications.jsonl is {"instruction", "code"}. The code needs the standard library alone and sets `expected`,
a list of texts that the output must hold; it runs in a process of its own.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import fractions
import io
import json
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

from data.execution import ToolMissing

VERIFICATIONS_PATH = Path(__file__).parent / "verifications.jsonl"
TIMEOUT_SEC = 120  # all together take about a second

# Reads a JSON list of codes, and answers each with a line: the texts expected, or what went wrong.
RUNNER = """
import json, sys
for code in json.load(sys.stdin):
    namespace = {}
    try:
        exec(code, namespace)
        answer = namespace["expected"]
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    print(json.dumps(answer), flush=True)
"""


def load_verifications(path: Path = VERIFICATIONS_PATH) -> dict[str, str]:
    """Instruction -> code."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {verification["instruction"]: verification["code"] for verification in map(json.loads, lines)}


def run_codes(codes: list[str], timeout_sec: float = TIMEOUT_SEC) -> list[list[str] | str]:
    """The texts that each code expects, or a message where it fails; after one that hangs, for the others too.

    >>> run_codes(["expected = [str(6 * 7)]", "1 / 0"])
    [['42'], 'ZeroDivisionError: division by zero']
    """
    command = [sys.executable, "-I", "-c", RUNNER]
    try:
        result = subprocess.run(
            command, input=json.dumps(codes), capture_output=True, text=True, timeout=timeout_sec, check=False
        )
        printed = result.stdout
    except subprocess.TimeoutExpired as error:
        printed = (error.stdout or b"").decode()
    answers = [json.loads(line) for line in printed.splitlines()]
    return answers + ["did not end"] * (len(codes) - len(answers))


def unverified(examples: list[dict], verifications: dict[str, str]) -> list[str]:
    """One message per example whose output lacks what its verification expects, and per verification of nothing."""
    outputs = {example["instruction"]: example["output"] for example in examples}
    messages = []
    for instruction, expected in zip(verifications, run_codes(list(verifications.values())), strict=True):
        if instruction not in outputs:
            messages.append(f"a verification of no example: {instruction}")
        elif isinstance(expected, str):
            messages.append(f"its verification fails ({expected}): {instruction}")
        elif lacking := missing(expected, outputs[instruction]):
            messages.append(f"the output lacks {', '.join(map(repr, lacking))}: {instruction}")
    return messages


def unverified_by_function(examples: list[dict], verifications: dict[str, Callable]) -> tuple[list[str], set[str]]:
    """The same for verifications that are functions of the example, and the programs that they miss.

    Those that need a program which is not installed are left out.
    """
    by_instruction = {example["instruction"]: example for example in examples}
    messages, missing_programs = [], set()
    for instruction, verification in verifications.items():
        if instruction not in by_instruction:
            messages.append(f"a verification of no example: {instruction}")
            continue
        example = types.SimpleNamespace(**by_instruction[instruction])
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                result = verification(example)
        except ToolMissing as error:
            missing_programs.add(str(error))
            continue
        except Exception as error:  # whatever the code in an output raises
            messages.append(f"its verification fails ({type(error).__name__}: {error}): {instruction}")
            continue
        expected = result if isinstance(result, list) else [result]
        if result is not True and (lacking := missing(expected, example.output)):
            messages.append(f"the output lacks {', '.join(map(repr, lacking))}: {instruction}")
    return messages, missing_programs


def missing(expected: list, output: str) -> list:
    """Those of the expected texts and numbers that do not occur in the output, or only within a longer one.

    >>> missing(["12", "a", 0.125, 7], "In 2012 it was 0.13, then 7.")
    ['12', 'a']
    """
    return [value for value in expected if not _occurs(value, output)]


def _occurs(value: str | int | float | bool | fractions.Fraction, output: str) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str | fractions.Fraction):
        value = str(value)
        before = r"(?<!\w)(?<!\d[.,])" if value[:1].isdigit() else r"(?<!\w)" if value[:1].isalpha() else ""
        after = r"(?!\w)(?![.,]\d)" if value[-1:].isdigit() else r"(?!\w)" if value[-1:].isalpha() else ""
        return re.search(before + re.escape(value) + after, output) is not None
    for number in re.findall(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?", output):
        num_decimals = len(number.partition(".")[2])
        # A number may be rounded to the decimals that it shows, but not from 110.25 to 110.
        if num_decimals == 0 and value != int(value):
            continue
        if abs(float(number.replace(",", "")) - value) <= 0.5 * 10**-num_decimals + 1e-9:
            return True
    return False
