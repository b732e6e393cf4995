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
    answers = zip(verifications, run_codes(list(verifications.values())), strict=True)
    messages = [_complaint(instruction, expected, outputs) for instruction, expected in answers]
    return [message for message in messages if message]


def unverified_by_function(examples: list[dict], verifications: dict[str, Callable]) -> tuple[list[str], set[str]]:
    """The same for verifications that are functions of the example, and the programs that they miss.

    Those that need a program which is not installed are left out.
    """
    by_instruction = {example["instruction"]: types.SimpleNamespace(**example) for example in examples}
    outputs = {instruction: example.output for instruction, example in by_instruction.items()}
    messages, missing_programs = [], set()
    for instruction, verification in verifications.items():
        expected: list | str = []
        if instruction in by_instruction:
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    result = verification(by_instruction[instruction])
                expected = result if isinstance(result, list) else [result]
            except ToolMissing as error:
                missing_programs.add(str(error))
            except Exception as error:  # whatever the code in an output raises
                expected = f"{type(error).__name__}: {error}"
        messages.append(_complaint(instruction, expected, outputs))
    return [message for message in messages if message], missing_programs


def _complaint(instruction: str, expected: list | str, outputs: dict[str, str]) -> str | None:
    """What is wrong with an output beside what its verification expects, or says as it fails."""
    if instruction not in outputs:
        return f"a verification of no example: {instruction}"
    if isinstance(expected, str):
        return f"its verification fails ({expected}): {instruction}"
    lacking = missing(expected, outputs[instruction])
    return f"the output lacks {', '.join(map(repr, lacking))}: {instruction}" if lacking else None


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
