"""How long plot_diversity.py takes for 52,000 instructions, and how often its root verbs and objects are right.

python -m benchmarks.diversity

Prints two tables, then one line of JSON.

The instructions are made of the labelled ones in tests/fixtures: the first half of one, the second half of another.
The labels were made by hand: the root verb of the first request, and its direct object where that is a common noun.
"Right" is a share of what was found, "found" is a share of what there is to find.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

from alpaca.generation.novelty import nearest_neighbours
from alpaca.generation.root_verbs import root_verbs
from benchmarks.measure import machine
from plot_diversity import TITLE, draw, most_frequent
from utils import ROOT, save_figure

NUM_INSTRUCTIONS = 52_002
NUM_RUNS = 3


def main() -> None:
    lines = (ROOT / "tests" / "fixtures" / "root_verbs.jsonl").read_text(encoding="utf-8").splitlines()
    labelled = [json.loads(line) for line in lines]
    instructions = make_instructions([entry["instruction"] for entry in labelled])
    num_cpus = len(os.sched_getaffinity(0))
    num_words = sum(len(instruction.split()) for instruction in instructions)
    print(machine("HanTa", "matplotlib", "rapidfuzz", "numpy"))
    print(
        f"{len(instructions):,} instructions, {num_words / len(instructions):.1f} words on average, {NUM_RUNS} runs\n"
    )
    result = {"num_instructions": len(instructions), "num_cpus": num_cpus}

    # The rules were mended with the first sample in view, and not changed after the second one was labelled.
    print("| sample | root verbs right | found | verbs and objects right | found |")
    print("|---|---:|---:|---:|---:|")
    for sample, held_out in (("in view", False), ("held out", True)):
        scores = rate([entry for entry in labelled if entry["held_out"] == held_out])
        print(f"| {sample} | {' | '.join(f'{right} of {total} ({right / total:.0%})' for right, total in scores)} |")
        result[sample] = scores

    print("\n| step | median, s | fastest | slowest |\n|---|---:|---:|---:|")
    pairs = root_verbs(instructions[:100])  # warm up
    time_runs("root verbs and objects", lambda: root_verbs(instructions, num_cpus), result)
    with tempfile.TemporaryDirectory() as folder:
        groups, paths = most_frequent(pairs), [Path(folder, "a.png"), Path(folder, "a.svg")]
        time_runs("figure as PNG and SVG", lambda: save_figure(draw(groups, "caption"), paths, TITLE), result)
    time_runs("nearest neighbours", lambda: nearest_neighbours(instructions, num_cpus), result)
    print("\n" + json.dumps(result))


def make_instructions(texts: list[str]) -> list[str]:
    rng = random.Random(0)
    halves = [(words[: len(words) // 2], words[len(words) // 2 :]) for words in map(str.split, texts)]
    return [" ".join(rng.choice(halves)[0] + rng.choice(halves)[1]) for _ in range(NUM_INSTRUCTIONS)]


def rate(labelled: list[dict]) -> list[tuple[int, int]]:
    """Right and all: of the root verbs found, of those labelled, of the pairs found, of those labelled."""
    found = root_verbs([entry["instruction"] for entry in labelled])
    labels = [(entry["verb"], entry["object"]) for entry in labelled]
    both = list(zip(found, labels, strict=True))
    verbs = sum(pair[0] == label[0] is not None for pair, label in both)
    pairs = sum(pair == label and label[1] is not None for pair, label in both)
    return [
        (verbs, sum(pair[0] is not None for pair, _ in both)),
        (verbs, sum(label[0] is not None for _, label in both)),
        (pairs, sum(pair[1] is not None for pair, _ in both)),
        (pairs, sum(label[1] is not None for _, label in both)),
    ]


def time_runs(name: str, function, result: dict) -> None:
    """Print a row with the median time of NUM_RUNS, and keep it in result."""
    seconds = []
    for _ in range(NUM_RUNS):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    print(f"| {name} | {statistics.median(seconds):.1f} | {min(seconds):.1f} | {max(seconds):.1f} |", flush=True)
    result[f"{name}, s"] = round(statistics.median(seconds), 2)


if __name__ == "__main__":
    main()
