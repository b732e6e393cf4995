"""Contamination: what data.check overlap finds of planted copies, and its time and memory for 52,000 examples.

python -m benchmarks.overlap [--num_examples 52000] [--num_evaluation 10000] [--repeats 3]

Planted: 200 outputs of alpaca_data.json (40 to 120 words, three sentences and more) are the evaluation set, and an
edited copy of each stands in the data in place of the original. Found means nearer than the default thresholds.
Speed: made-up examples whose texts are pieces of 4 to 12 words of alpaca_data.json, so that they share far more runs
of words than real ones; four in ten have an input. Prints medians, saves them in benchmarks/results/overlap.txt, and
ends with a line of JSON.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import argparse
import json
import random
import re
import resource
import time

from benchmarks.measure import in_own_process, machine, median_of, print_and_save
from utils import ROOT

NUM_PLANTED = 200
LENGTHS = {"instruction": (7.5, 1.45), "input": (2.0, 20.0), "output": (2.0, 40.0)}  # words, a gamma distribution


def replace_every(text: str, distance: int) -> str:
    """The text with a word of its own, that the original cannot have, in place of every distance-th word."""
    words = text.split(" ")
    return " ".join(f"other{i}" if i % distance == distance - 1 else word for i, word in enumerate(words))


EDITS = {
    "none": lambda text: text,
    "capital letters and punctuation gone": lambda text: re.sub(r"[^\w\s]", "", text.lower()),
    "in the middle of a text three times as long": lambda text: f"{FILLER} {text} {FILLER}",
    "sentences in the opposite order": lambda text: " ".join(reversed(re.split(r"(?<=[.!?])\s+", text))),
    "every 10th word replaced": lambda text: replace_every(text, 10),
    "every 5th word replaced": lambda text: replace_every(text, 5),
    "every 4th word replaced": lambda text: replace_every(text, 4),
    "every 3rd word replaced": lambda text: replace_every(text, 3),
    "every 2nd word replaced": lambda text: replace_every(text, 2),
}
FILLER = " ".join(f"filler{i}" for i in range(80))


def measure_planted() -> list[dict]:
    """For each edit the share of the planted copies that is found, by each measure and by both together."""
    from alpaca.examples import load_examples
    from data.overlap import Data

    examples = load_examples(ROOT / "alpaca_data.json")
    suitable = [
        i for i, e in enumerate(examples) if 40 <= len(e["output"].split()) <= 120 and e["output"].count(".") > 2
    ]
    planted = random.Random(0).sample(suitable, NUM_PLANTED)
    rows = []
    for name, edit in EDITS.items():
        copies = {i: {**examples[i], "output": edit(examples[i]["output"])} for i in planted}
        data = Data([copies.get(i, example) for i, example in enumerate(examples)])
        near = data.nearest([examples[i] for i in planted], "output")
        by_rouge_l, by_runs = near.rouge_l > 0.7, near.shared > 0.2
        found = {"rouge_l": by_rouge_l, "runs": by_runs, "either": by_rouge_l | by_runs}
        rows.append({"edit": name, **{measure: float(is_found.mean()) for measure, is_found in found.items()}})
    return rows


def make_examples(num_examples: int, seed: int) -> list[dict]:
    rng = random.Random(seed)
    examples = json.loads((ROOT / "alpaca_data.json").read_text(encoding="utf-8"))
    words = [word for example in examples for word in f"{example['input']} {example['output']}".split()]

    def text(part: str) -> str:
        length, pieces = max(3, round(rng.gammavariate(*LENGTHS[part]))), []
        while len(pieces) < length:
            start = rng.randrange(len(words) - 12)
            pieces += words[start : start + rng.randint(4, 12)]
        return " ".join(pieces[:length])

    return [
        {part: text(part) if part != "input" or rng.random() < 0.4 else "" for part in LENGTHS}
        for _ in range(num_examples)
    ]


def measure_speed(num_examples: int, num_evaluation: int) -> dict:
    from data.overlap import Data

    examples, evaluation = make_examples(num_examples, 0), make_examples(num_evaluation, 1)
    Data(examples[:100]).nearest(evaluation[:100], "output")  # warm up
    start, cpu_start = time.perf_counter(), time.process_time()
    data = Data(examples)
    for part in LENGTHS:
        data.nearest(evaluation, part)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"sec": seconds, "cpu_sec": cpu_seconds, "peak_mb": peak_mb}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_examples", type=int, default=52_000)
    parser.add_argument("--num_evaluation", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    sizes = (arguments.num_examples, arguments.num_evaluation)
    speed = median_of([in_own_process(measure_speed, *sizes) for _ in range(arguments.repeats)], "sec")
    planted = measure_planted()
    lines = [
        f"{machine()}, median of {arguments.repeats}",
        f"{sizes[0]:,} examples, evaluation set of {sizes[1]:,}: {speed['sec']:.1f} s "
        f"({speed['spread'][0]:.1f} to {speed['spread'][1]:.1f}), processor time {speed['cpu_sec']:.1f} s, "
        f"peak memory {speed['peak_mb']:,.0f} MB",
        f"{'edit of a planted copy':<46}{'ROUGE-L':>9}{'8-grams':>9}{'either':>9}",
    ]
    lines += [f"{r['edit']:<46}{r['rouge_l']:>9.1%}{r['runs']:>9.1%}{r['either']:>9.1%}" for r in planted]
    print_and_save("overlap", [*lines, json.dumps({"speed": speed, "planted": planted})])


if __name__ == "__main__":
    main()
