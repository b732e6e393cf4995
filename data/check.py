"""Check a file of instruction data, and print the report.

python -m data.check report
python -m data.check report --data_path my_data.json --reference_path other_data.json
python -m data.check overlap --data_path my_data.json --against eval.jsonl

The first checks alpaca_data.json and seed_tasks.jsonl, their lengths and computed answers included; another file is
checked for what no instruction data should hold. With --reference_path, examples that come near those of another file
are counted. Exit code 1, and one line per finding, where something is wrong. The third looks for the examples of
evaluation sets in training data (data/overlap.py).
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import ast
import collections
import json
import re
import statistics
import types
import unicodedata
from collections.abc import Callable, Container
from pathlib import Path

from alpaca.examples import FIELDS, load_examples
from alpaca.generation.novelty import NoveltyFilter
from data.build import DATA_PATH, SEED_TASKS_PATH
from data.code_verifications import EXAMPLES
from data.kinds import codes, load_kinds, tests_of_code, unlike_their_kind
from data.overlap import highest_scores, overlap
from data.verifications import SEED_TASKS
from data.verify import load_verifications, unverified
from generate_instruction import post_process_gpt3_response
from utils import UserError, jload, run_commands

# Of the shipped data. For the first run, the teacher was asked for inputs and outputs of at most about 100 words, and
# instructions of one or two sentences; for the second, what has a kind, for longer ones.
MOST_WORDS = {"instruction": 40, "input": 100, "output": 110}
MOST_WORDS_OF_KINDS = {"instruction": 120, "input": 380, "output": 450}
INPUT_SHARE = (0.35, 0.5)
NEAR_COPY = 0.7  # ROUGE-L F-measure
MOST_NEAR_COPIES = 0.01  # of the examples

MARKER = re.compile(r"###|<?noinput>?|^\s*\d+\.\s*(instruction|input|output)\s*:|<\|?/?\w+\|>|</s>", re.I | re.M)
LINK = re.compile(r"https?://|\bwww\.|\]\(")
NOT_THERE = re.compile(
    r"\b(see|find|find the|in the) attach(ed|ment)|\battached (file|document|text|image|photo|picture|table|list)"
    r"|\bclick (here|on)|\b(image|photo|picture|video|screenshot)s? (above|below|shown)",
    re.I,
)
MATERIAL = r"(text|sentence|list|passage|paragraph|data|table|code|words|numbers|review|e-?mail|letter|message|poem)s?"
POINTS_AT_INPUT = re.compile(
    rf"\b(the following|given|attached|above|below) {MATERIAL}\b|\b{MATERIAL} (below|above)\b", re.I
)
PLACEHOLDER = re.compile(
    r"(?i:lorem ipsum|\[(your|insert|name|date|address|company)[^\]]*\])|\bTODO\b|\bTBD\b|\bFIXME\b"
)
EMPTY_OUTPUT = re.compile(r"[\W_]*|n/?a|output|answer|see above|\W*(to be (done|added))\W*", re.I)
REFUSAL = re.compile(
    r"\bas an? (AI|artificial|(large )?language model)|\bI (do not|don't) have (access|the ability)", re.I
)


NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
# Such as 3 × 1.50 + 2 = 6.50, but no part of a longer expression, and nothing with brackets, powers or letters.
EQUATION = re.compile(
    rf"(?<![\w.,^/()-])(?<![-+×*/÷−^)] )({NUMBER}(?:\s?[-+×*/÷−]\s?{NUMBER})+) [=≈] (-?{NUMBER})(%?)"
    r"(?!\d|[.,]\d|\.\.|\s?[-+×*/÷−^(]\s?[\d(]|\s?[×*]|[\wπ²³/]|, remainder)"
)


def form(example: dict) -> str | None:
    """Three texts without white space around them; instruction and output are not empty."""
    if list(example) != list(FIELDS) or not all(isinstance(text, str) for text in example.values()):
        return "it is not exactly the texts instruction, input, output"
    if stray := [part for part in FIELDS if example[part] != example[part].strip()]:
        return f"white space around the {stray[0]}"
    if empty := [part for part in ("instruction", "output") if not example[part]]:
        return f"an empty {empty[0]}"
    return None


def characters(example: dict) -> str | None:
    """No control, format, private or unassigned character, no odd space, and composed letters."""
    for part in FIELDS:
        text = example[part]
        for character in text:
            if character != "\n" and unicodedata.category(character) in ("Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp"):
                return f"the character U+{ord(character):04X} in the {part}"
        if "\ufffd" in text or "\xa0" in text or re.search(r"[ \t]$", text, re.M):
            return f"a stray space or replacement character in the {part}"
        if text != unicodedata.normalize("NFC", text):
            return f"a letter and its accent apart in the {part}"
    return None


def markers(example: dict) -> str | None:
    found = [match for part in FIELDS if (match := MARKER.search(example[part]))]
    return f"the marker {found[0].group()!r}" if found else None


def can_be_read_back(example: dict) -> str | None:
    """The generator's own parser finds this example, whole, in a completion that holds it."""
    text = f" {example['instruction']}\n1. Input:\n{example['input'] or '<noinput>'}\n1. Output:\n{example['output']}"
    answer = types.SimpleNamespace(text=text, finish_reason="stop")
    return None if post_process_gpt3_response(0, answer) == [example] else "the generator's rules would drop it"


def things_not_there(example: dict) -> str | None:
    for part in FIELDS:
        if match := LINK.search(example[part]) or NOT_THERE.search(example[part]):
            return f"{match.group()!r} in the {part}"
    if not example["input"] and (match := POINTS_AT_INPUT.search(example["instruction"])):
        return f"{match.group()!r}, but no input"
    return None


def placeholders(example: dict) -> str | None:
    if example["input"].lower() in ("none", "n/a", "no input", "-"):
        return f"the input {example['input']!r}"
    if EMPTY_OUTPUT.fullmatch(example["output"]):
        return f"the output {example['output']!r}"
    for part in ("input", "output"):
        match = PLACEHOLDER.search(example[part])
        # Some instructions ask for a placeholder, such as those that have a text made anonymous.
        if match and match.group() not in example["instruction"]:
            return f"{match.group()!r} in the {part}"
    return None


def refusals(example: dict) -> str | None:
    match = REFUSAL.search(example["output"])
    return f"{match.group()!r} in the output" if match else None


def code_blocks(example: dict) -> str | None:
    """Fences come in pairs; Python can be parsed, JSON read."""
    if example["output"].count("```") % 2:
        return "a code fence that is not closed"
    for language, code in re.findall(r"^```(\w*)\n(.*?)^```", example["output"], re.M | re.S):
        try:
            if language == "python":
                ast.parse(code)
            elif language == "json":
                json.loads(code)
        except (SyntaxError, ValueError) as error:
            return f"{language} that cannot be read: {error}"
    return None


def arithmetic(example: dict) -> str | None:
    """Every equation in the output holds, up to the rounding that its result shows."""
    for expression, result, percent in EQUATION.findall(example["output"]):
        if re.fullmatch(r"[01]{3,} \+ [01]{3,}", expression):  # binary numbers
            continue
        num_decimals = len(result.partition(".")[2])
        value = _value(expression.replace(",", "")) * (100 if percent else 1)
        if abs(value - float(result.replace(",", ""))) > 0.5 * 10**-num_decimals + 1e-9:
            return f"{expression} is {value:g}, not {result}{percent}"
    return None


def _value(expression: str) -> float:
    """The value of numbers joined by + - × /, products first.

    >>> _value("2 + 3 × 4 / 6 - 1")
    3.0
    """
    total = 0.0
    for sign, term in re.findall(r"([-+−]?)\s?([^-+−]+)", expression):
        product = 1.0
        for operator, factor in re.findall(r"([×*/÷]?)\s?([\d.]+)", term):
            product = product / float(factor) if operator in ("/", "÷") else product * float(factor)
        total += -product if sign in ("-", "−") else product
    return total


CHECKS: tuple[Callable[[dict], str | None], ...] = (
    characters,
    markers,
    can_be_read_back,
    things_not_there,
    placeholders,
    refusals,
    code_blocks,
    arithmetic,
)


def check_examples(examples: list[dict]) -> list[str]:
    """Findings about single examples, and about instructions that occur twice."""
    findings, positions = [], {}
    for position, example in enumerate(examples):
        if problem := form(example):
            findings.append(f"example {position}: form: {problem}")
            continue
        for check in CHECKS:
            if problem := check(example):
                findings.append(f"example {position}: {check.__name__.replace('_', ' ')}: {problem}")
        words = " ".join(re.findall(r"\w+", example["instruction"].lower()))
        if (first := positions.setdefault(words, position)) != position:
            findings.append(f"example {position}: uniqueness: its instruction is that of example {first}")
    return findings


def check_sizes(examples: list[dict], kinds: Container[str] = ()) -> list[str]:
    """Findings about lengths and the share with an input, as they were asked for in the shipped data.

    kinds: the instructions of the second run."""
    findings = []
    for position, example in enumerate(examples):
        for part, most in (MOST_WORDS_OF_KINDS if example["instruction"] in kinds else MOST_WORDS).items():
            if (number := len(example[part].split())) > most:
                findings.append(f"example {position}: length: {number} words in the {part}")
    share = sum(bool(example["input"]) for example in examples) / len(examples)
    if not INPUT_SHARE[0] <= share <= INPUT_SHARE[1]:
        findings.append(f"share with an input: {share:.1%}, not {INPUT_SHARE[0]:.0%} to {INPUT_SHARE[1]:.0%}")
    return findings


def report(data_path: str = str(DATA_PATH), reference_path: str | None = None) -> None:
    """Check the data, print the report, and end with exit code 1 where there is a finding.

    Args:
        data_path: JSON list of instruction, input, output.
        reference_path: Another such file, or JSON lines of seed tasks, that the data may not come near.
    """
    examples = jload(data_path)
    if not isinstance(examples, list) or not examples or not all(isinstance(e, dict) for e in examples):
        raise UserError(f"{data_path}: no data; it has to be a JSON list of instruction, input and output.")
    findings = check_examples(examples)
    if not any(map(form, examples)):  # else there is nothing to count and compare
        print(counts(examples))
        if Path(data_path).resolve() == DATA_PATH:
            kinds = load_kinds()
            findings += check_sizes(examples, kinds) + check_shipped(examples, kinds)
        if reference_path is not None:
            findings += check_against(examples, reference_path)
    for finding in findings:
        print(finding)
    if findings:
        raise UserError(f"{data_path}: {len(findings)} finding{'s' * (len(findings) > 1)}, listed above.")
    print("no findings")


def counts(examples: list[dict]) -> str:
    """Numbers and lengths, as a table."""
    rows = [("examples", f"{len(examples):,}")]
    rows += [("with an input", f"{sum(bool(e['input']) for e in examples) / len(examples):.1%}")]
    first_words = collections.Counter(e["instruction"].split()[0].lower() for e in examples)
    rows += [("different first words", f"{len(first_words):,}")]
    rows += [("instructions that end as questions", f"{_share(examples, 'instruction', r'[?]$'):.1%}")]
    rows += [("outputs with a code block", f"{_share(examples, 'output', r'^```'):.1%}")]
    for part in FIELDS:
        if lengths := [len(e[part].split()) for e in examples if e[part]]:
            text = f"{min(lengths)} to {max(lengths)}, median {statistics.median(lengths):g}"
            rows.append((f"words in the {part}", text))
    return "\n".join(f"{name:<40}{value:>24}" for name, value in rows)


def _share(examples: list[dict], part: str, pattern: str) -> float:
    return sum(bool(re.search(pattern, e[part], re.M)) for e in examples) / len(examples)


def check_shipped(examples: list[dict], kinds: dict[str, dict]) -> list[str]:
    """Computed answers, kinds, the seed tasks, and the distance between all instructions."""
    seed_tasks = load_examples(SEED_TASKS_PATH)
    findings = []
    for name, tasks, verifications in (
        ("answers computed and compared", examples, load_verifications() | codes(kinds)),
        ("outputs whose code was run", examples, EXAMPLES | tests_of_code(kinds)),
        ("seed tasks computed and compared", seed_tasks, SEED_TASKS),
    ):
        messages, missing_programs = unverified(tasks, verifications)
        findings += [f"verification: {message}" for message in messages]
        print(f"{name:<40}{len(verifications):>24,}")
        if missing_programs:
            print(f"some of them were left out, for want of {', '.join(sorted(missing_programs))}")
    print(f"{'examples checked by their kind':<40}{len(kinds):>24,}")
    findings += [f"kind: {message}" for message in unlike_their_kind(examples, kinds)]
    novelty_filter = NoveltyFilter([task["instruction"] for task in seed_tasks])
    for example, verdict in zip(examples, novelty_filter.judge([e["instruction"] for e in examples]), strict=True):
        if not verdict.is_novel:
            where = f"ROUGE-L {verdict.highest:.2f} to a seed task or an earlier example"
            findings.append(f"novelty: {where}: {example['instruction']}")
    return findings


def check_against(examples: list[dict], reference_path: str) -> list[str]:
    """Are there more near copies of a reference file's instructions than MOST_NEAR_COPIES?"""
    instructions = [example["instruction"] for example in examples]
    known = [example["instruction"] for example in load_examples(reference_path)]
    scores, _ = highest_scores(instructions, known)
    share = (scores > NEAR_COPY).mean()
    print(f"{'near copies of ' + Path(reference_path).name:<40}{f'{share:.2%}, highest {max(scores):.2f}':>24}")
    return [f"near copies: {share:.2%} of the examples"] if share >= MOST_NEAR_COPIES else []


if __name__ == "__main__":
    run_commands({"report": report, "overlap": overlap})
