"""What each example of the second run is asked to be, checked kind by kind.

A line of data/kinds.jsonl is {"instruction", "kind", ...}; beside these it holds what the kind's check needs:
labels (classification), span (a question on a passage; null where the passage does not say), count (list items),
sides (of a comparison), checks (Python expressions in `output` that must be true), code (of a verification, see
verify.py), language and test (of code; a verification that sets nothing, and ends with an error where the code is
wrong).
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import collections
import csv
import io
import json
import re
from pathlib import Path

KINDS_PATH = Path(__file__).parent / "kinds.jsonl"

# Words of the output, least and most; of the input, where the kind needs one of that length.
OUTPUT_WORDS = {
    "how_to": (150, 400),
    "story": (150, 450),
    "message": (40, 250),
    "rewriting": (40, 250),
    "summary": (20, 120),
    "extraction": (10, 120),
    "classification": (1, 40),
    "passage": (5, 80),
    "recommendation": (80, 300),
    "ideas": (40, 200),
    "code": (40, 300),
    "comparison": (150, 350),
    "constraints": (30, 250),
    "mathematics": (60, 200),
    "false_premise": (20, 120),
    "refusal": (40, 150),
}
INPUT_WORDS = {"rewriting": (50, 250), "summary": (120, 350), "extraction": (80, 300)}
MAY_REPEAT_ITSELF = ("code", "extraction", "constraints")  # lines of a program or a table are alike
REPEATED_WORDS, COPIED_WORDS = 8, 8  # lengths of runs of words
MOST_COPIED = 0.1  # share of a summary's runs that stand in its input
RATIO_OF_REWRITING = (0.3, 2.0)  # words of the output to words of the input

NOT_SAID = re.compile(
    r"(n['’]t|\b(not|never|nothing|no|nor|without|only|silent))\b.*\b(say|state|mention|give|given|specif|tell|includ|"
    r"reveal|explain|information|answer|cover|name|report|list|describe|indicat|detail|note)"
    r"|not (stated|mentioned|given|known)",
    re.I | re.S,
)
# Words that begin with a capital without being names of anything that the user would have to give.
NO_NAMES = set(
    """I I'm I've I'd I'll Dear Hi Hello Hey Best Kind Warm Yours Sincerely Regards Thanks Thank Subject Re Monday
    Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May June July August September
    October November December Mr Mrs Ms Dr Mx Sir Madam P.S PS English OK FAQ""".split()
)
NUMBERS = {
    name: n for n, name in enumerate("zero one two three four five six seven eight nine ten eleven twelve".split())
}
NUMBER = rf"(\d+|{'|'.join(NUMBERS)})"
WORD_LIMITS = (  # in an instruction, with what they allow
    (rf"(?<!no )(?<!not )\b(?:under|fewer than|less than|below) {NUMBER} words", lambda words, n: words < n),
    (
        rf"\b(?:at most|no more than|up to|within|maximum of|max|not more than) {NUMBER} words",
        lambda words, n: words <= n,
    ),
    (rf"\b(?:at least|no fewer than|no less than|minimum of) {NUMBER} words", lambda words, n: words >= n),
    (rf"(?<!no )(?<!not )\b(?:more than|over) {NUMBER} words", lambda words, n: words > n),
    (rf"\bexactly {NUMBER} words", lambda words, n: words == n),
    (rf"\b(?:about|around|roughly|approximately|some) {NUMBER} words", lambda words, n: 0.8 * n <= words <= 1.2 * n),
    (rf"\b(?:a|an|in) {NUMBER}[- ]word\b", lambda words, n: 0.8 * n <= words <= 1.2 * n),
)


def load_kinds() -> dict[str, dict]:
    """Instruction -> its line."""
    lines = KINDS_PATH.read_text(encoding="utf-8").splitlines()
    return {kind["instruction"]: kind for kind in map(json.loads, lines)}


def check_kind(example: dict, kind: dict) -> list[str]:
    """What the example lacks to be of its kind; code is not run here."""
    name = kind["kind"]
    if name not in OUTPUT_WORDS:
        return [f"there is no kind {name!r}"]
    findings = [_length("output", example, OUTPUT_WORDS[name])]
    if name in INPUT_WORDS:
        findings.append(_length("input", example, INPUT_WORDS[name]))
    if name not in MAY_REPEAT_ITSELF and (runs := repeated_runs(example["output"])):
        findings.append(f"it repeats {runs[0]!r}")
    findings += [word_limits(example), tables(example)]
    findings.append(CHECKS[name](example, kind) if name in CHECKS else None)
    return [finding for finding in findings if finding]


def _length(part: str, example: dict, limits: tuple[int, int]) -> str | None:
    words = len(example[part].split())
    return None if limits[0] <= words <= limits[1] else f"{words} words in the {part}, not {limits[0]} to {limits[1]}"


def word_limits(example: dict) -> str | None:
    """The numbers of words that the instruction asks for, a greeting or a signature included."""
    words = len(example["output"].split())
    for pattern, holds in WORD_LIMITS:
        if match := re.search(pattern, example["instruction"], re.I):
            word = match.group(1).lower()
            number = NUMBERS[word] if word in NUMBERS else int(word)
            if "each" not in example["instruction"].lower() and not holds(words, number):
                return f"{words} words, where the instruction says {match.group()!r}"
    return None


def tables(example: dict) -> str | None:
    """Rows of a Markdown table have equally many cells."""
    widths = [line.strip().strip("|").count("|") for line in example["output"].splitlines() if line.strip()[:1] == "|"]
    return "a table with rows of different length" if len(set(widths)) > 1 else None


def runs_of_words(text: str, length: int) -> list[str]:
    words = re.findall(r"\w+", text.lower())
    return [" ".join(words[i : i + length]) for i in range(len(words) - length + 1)]


def repeated_runs(text: str) -> list[str]:
    runs = runs_of_words(text, REPEATED_WORDS)
    return [run for run, count in collections.Counter(runs).items() if count > 1]


def normal(text: str) -> str:
    """Lower case, one kind of quotation mark and dash, and single spaces."""
    return re.sub(r"\s+", " ", text.lower().replace("’", "'").replace("–", "-").replace("−", "-")).strip()


def given(example: dict) -> str:
    return f"{example['instruction']} {example['input']}"


def numbers_in(text: str) -> list[str]:
    return [number.replace(",", "").replace(".", "") for number in re.findall(r"\d[\d,.]*\d|\d", text)]


def names_in(text: str) -> list[str]:
    """Words with a capital that does not come from the beginning of a sentence, line or quotation."""
    found = re.findall(r"(?<=[\w,;’'] )([A-Z][\w’'-]*)", re.sub(r"^\W*[A-Z][\w’' -]*:", "", text, flags=re.M))
    return [name for name in found if name.rstrip("s’'") not in NO_NAMES and name not in NO_NAMES]


def nothing_added(example: dict, _: dict) -> str | None:
    """Numbers and names of the output are the user's."""
    known = given(example)
    known_numbers = set(numbers_in(known))
    if added := [number for number in numbers_in(example["output"]) if number not in known_numbers and len(number) > 1]:
        return f"numbers that the user did not give: {', '.join(added)}"
    words = normal(known)
    parts = [part for name in names_in(example["output"]) for part in re.split(r"['’-]s?\b", name) if len(part) > 1]
    if added := [part for part in parts if part.lower() not in words]:
        return f"names that the user did not give: {', '.join(added)}"
    return None


def nothing_lost(example: dict, kind: dict) -> str | None:
    """A rewriting keeps names and numbers of its input (but those in `dropped`), and about its length."""
    output, dropped = normal(example["output"]), [d.lower() for d in kind.get("dropped", [])]
    names = {name.rstrip("’'s").lower() for name in names_in(example["input"])}
    numbers = set(numbers_in(example["input"])) - set(numbers_in(example["output"]))
    lost = [name for name in names if name not in output] + [n for n in numbers if len(n) > 1]
    if lost := [word for word in lost if not any(word in d for d in dropped)]:
        return f"lost from the input: {', '.join(sorted(lost))} (if that is meant, put them into dropped)"
    ratio = len(example["output"].split()) / max(1, len(example["input"].split()))
    if not RATIO_OF_REWRITING[0] <= ratio <= RATIO_OF_REWRITING[1]:
        return f"{ratio:.1f} times the words of the input"
    return None


def own_words(example: dict, kind: dict) -> str | None:
    """A summary adds nothing, and copies little."""
    runs = runs_of_words(example["output"], COPIED_WORDS)
    source = " ".join(re.findall(r"\w+", example["input"].lower()))
    copied = [run for run in runs if run in source]
    if len(copied) > MOST_COPIED * max(1, len(runs)):
        return f"copied: {copied[0]!r}"
    return nothing_added(example, kind)


def values_of(text: str) -> list[str]:
    """The values in JSON, a Markdown table, CSV in a block, or a list with or without labels."""
    block = re.search(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)
    body = block.group(2) if block else text
    try:
        return [str(leaf) for leaf in _leaves(json.loads(body)) if leaf is not None and not isinstance(leaf, bool)]
    except ValueError:
        pass
    if block and block.group(1) == "csv":
        return [cell for row in list(csv.reader(io.StringIO(body)))[1:] for cell in row]
    values, in_table = [], False
    for line in filter(None, map(str.strip, body.splitlines())):
        if line.startswith("|"):
            values += [cell.strip() for cell in line.strip("|").split("|")] if in_table else []
            in_table = True
        else:
            in_table = False
            item = re.sub(r"^(?:[-*•]|\d+[.)])\s+", "", line)
            values += [item.rsplit(": ", 1)[-1]] if not item.endswith(":") else []
    return [value for value in values if not re.fullmatch(r":?-+:?", value)]


def _leaves(value) -> list:
    if isinstance(value, dict):
        return [leaf for v in value.values() for leaf in _leaves(v)]
    return [leaf for v in value for leaf in _leaves(v)] if isinstance(value, list) else [value]


def pieces_of_input(example: dict, kind: dict) -> str | None:
    """Every value extracted stands in the input, or in `written` where the instruction asks for another form."""
    source = normal(given(example))
    written = [normal(w) for w in kind.get("written", [])] + ["-", "n/a", "none", "not given", "not stated"]
    for value in values_of(example["output"]):
        text = normal(value).strip(" .;*`\"'")
        pieces = [text] if text in source or text in written else re.split(r", | and |; | - | \(|\)", text)
        for piece in filter(None, (piece.strip(" .;*`\"'()") for piece in pieces)):
            if piece not in source and piece not in written:
                return f"no piece of the input: {piece!r} (if the instruction asks for that form, put it into written)"
    return None


def label_of_the_set(example: dict, kind: dict) -> str | None:
    labels = kind["labels"]
    if unsaid := [label for label in labels if normal(label) not in normal(given(example))]:
        return f"labels that the task does not name: {', '.join(unsaid)}"
    for line in filter(None, map(str.strip, example["output"].splitlines())):
        if not any(re.search(rf"(?<!\w){re.escape(normal(label))}(?!\w)", normal(line)) for label in labels):
            return f"no label in {line!r}"
    return None


def span_of_the_passage(example: dict, kind: dict) -> str | None:
    if kind["span"] is None:
        return None if NOT_SAID.search(example["output"]) else "it does not say that the passage does not say"
    for where, text in (("input", given(example)), ("output", example["output"])):
        if normal(kind["span"]) not in normal(text):
            return f"the span {kind['span']!r} is not in the {where}"
    return None


def items_in(text: str) -> list[str]:
    """The items of the outermost list: their text up to a colon, a dash or the end of the line."""
    items = re.findall(r"^(?:\d+[.)]|[-*•]) +(.+)", text, re.M)
    return [normal(re.split(r": | – | - | \(|\. ", item)[0].strip('*_"“” ')) for item in items]


def number_of_items(example: dict, kind: dict) -> str | None:
    items = items_in(example["output"])
    if kind.get("count") is not None and len(items) != kind["count"]:
        return f"{len(items)} list items, not {kind['count']}"
    if twice := [item for item in dict.fromkeys(items) if items.count(item) > 1]:
        return f"an item twice: {twice[0]!r}"
    return None


def steps_or_paragraphs(example: dict, _: dict) -> str | None:
    lines = [line for line in example["output"].splitlines() if line.strip()]
    return None if len(lines) >= 3 else f"{len(lines)} paragraphs or steps, not 3 or more"


def both_sides(example: dict, kind: dict) -> str | None:
    lacking = [side for side in kind.get("sides", []) if normal(side) not in normal(example["output"])]
    return f"not there: {', '.join(lacking)}" if lacking else None


def fenced(example: dict, kind: dict) -> str | None:
    language = kind["language"]
    return None if f"```{language}\n" in example["output"] else f"no block of {language}"


def enough_checks(_: dict, kind: dict) -> str | None:
    return None if len(kind["checks"]) >= 3 else "fewer than three constraints"


CHECKS = {
    "how_to": steps_or_paragraphs,
    "message": nothing_added,
    "rewriting": nothing_lost,
    "summary": own_words,
    "extraction": pieces_of_input,
    "classification": label_of_the_set,
    "passage": span_of_the_passage,
    "recommendation": number_of_items,
    "ideas": number_of_items,
    "code": fenced,
    "comparison": both_sides,
    "constraints": enough_checks,
}


def unlike_their_kind(examples: list[dict], kinds: dict[str, dict]) -> list[str]:
    """One message for everything that examples lack to be of their kind, and for each kind of no example."""
    by_instruction = {example["instruction"]: example for example in examples}
    messages = [f"a kind of no example: {instruction}" for instruction in kinds if instruction not in by_instruction]
    for instruction, kind in kinds.items():
        if example := by_instruction.get(instruction):
            messages += [f"{kind['kind']}: {finding}: {instruction}" for finding in check_kind(example, kind)]
    return messages


def codes(kinds: dict[str, dict]) -> dict[str, str]:
    """Instruction -> the code of its verification (see verify.py), for the kinds that can be computed."""
    found = {}
    for instruction, kind in kinds.items():
        if "checks" in kind:
            found[instruction] = f"expected = [all([{', '.join(kind['checks'])}])]"
        elif "code" in kind:
            found[instruction] = kind["code"]
    return found


def tests_of_code(kinds: dict[str, dict]) -> dict[str, str]:
    """The same for code that is run: its test."""
    return {instruction: f"{kind['test']}\nexpected = []" for instruction, kind in kinds.items() if "test" in kind}
