"""Compare outputs with what can be computed.

Of the seed tasks: verifications.py. Of the data: verifications.jsonl, and code_verifications.py for code that is run.

A verification is a function of the example (.input, .output), or Python code, as in a line {"instruction", "code"} of
verifications.jsonl. The code sees `input`, `output` and what execution.py defines, and sets `expected`, a list of what
the output must hold.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import fractions
import io
import json
import re
import types
from collections.abc import Callable
from pathlib import Path

from data import execution

VERIFICATIONS_PATH = Path(__file__).parent / "verifications.jsonl"


def load_verifications() -> dict[str, str]:
    """Instruction -> code."""
    lines = VERIFICATIONS_PATH.read_text(encoding="utf-8").splitlines()
    return {verification["instruction"]: verification["code"] for verification in map(json.loads, lines)}


def unverified(examples: list[dict], verifications: dict[str, Callable | str]) -> tuple[list[str], set[str]]:
    """One message per example whose output lacks what its verification expects, and per verification of nothing; and
    the programs that are not installed, whose verifications are left out."""
    by_instruction = {example["instruction"]: types.SimpleNamespace(**example) for example in examples}
    messages, missing_programs = [], set()
    for instruction, verification in verifications.items():
        example = by_instruction.get(instruction)
        if example is None:
            messages.append(f"a verification of no example: {instruction}")
            continue
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                expected = _run(verification, example) if isinstance(verification, str) else verification(example)
        except execution.ToolMissing as error:
            missing_programs.add(str(error))
        except Exception as error:  # whatever the code in an output raises
            messages.append(f"its verification fails ({type(error).__name__}: {error}): {instruction}")
        else:
            lacking = missing(expected if isinstance(expected, list) else [expected], example.output)
            if lacking:
                messages.append(f"the output lacks {', '.join(map(repr, lacking))}: {instruction}")
    return messages, missing_programs


def _run(code: str, example: types.SimpleNamespace) -> list:
    names = {**vars(execution), "input": example.input, "output": example.output}
    exec(code, names)
    return names["expected"]


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
