"""The novelty filter: seconds to judge each of 52,000 instructions against all kept before it, beside rouge-score.

python -m benchmarks.novelty [--num_instructions 52000] [--repeats 3]

Decisions, means and the ten most similar instructions are included, as in a real run: batches of 85 (five prompts of
17 tasks) are judged one after the other, and what is kept becomes known. The instructions are made up: lengths as in
instruction data (10.9 words in the mean, half of them under 11, one in a hundred over 20), words by Zipf's law. On one
core and on two, at a quarter, half and twice the number too; each measurement in a process of its own, for its memory.
Then one such request, beside 52,000 and 1,000,000 known instructions.
rouge-score scores a sample of the same pairs in the same run, its tokens prepared beforehand. Prints medians, saves
them in benchmarks/results/novelty.txt, and ends with a line of JSON.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import argparse
import json
import os
import random
import resource
import statistics
import time

from benchmarks.measure import in_own_process, machine, median_of, print_and_save

NUM_SEEDS, BATCH_SIZE, VOCABULARY = 175, 85, 20_000


def make_instructions(num_instructions: int) -> list[str]:
    """Instructions of realistic lengths and word frequencies, always the same ones."""
    rng = random.Random(0)
    words = [f"w{i}" for i in range(VOCABULARY)]
    weights = [(i + 3) ** -1.1 for i in range(VOCABULARY)]  # the commonest 255 make up 62% of a text
    lengths = [max(3, round(rng.gammavariate(7.5, 1.45))) for _ in range(num_instructions)]
    text = rng.choices(words, weights, k=sum(lengths))
    instructions, start = [], 0
    for length in lengths:
        instructions.append(" ".join(text[start : start + length]))
        start += length
    return instructions


def measure_filter(num_instructions: int, num_cpus: int) -> dict:
    """One pass over all instructions in this process, bound to num_cpus cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_cpus])
    from alpaca.generation.novelty import NoveltyFilter

    instructions = make_instructions(NUM_SEEDS + num_instructions)
    NoveltyFilter(instructions[:500], num_cpus=num_cpus).judge(instructions[500:1000])  # warm up
    start = time.perf_counter()
    novelty_filter = NoveltyFilter(instructions[:NUM_SEEDS], num_cpus=num_cpus)
    num_pairs = 0
    for first in range(NUM_SEEDS, len(instructions), BATCH_SIZE):
        num_known = len(novelty_filter.texts)
        for verdict in novelty_filter.judge(instructions[first : first + BATCH_SIZE]):
            num_pairs += num_known
            num_known += verdict.is_novel
    seconds = time.perf_counter() - start
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"sec": seconds, "pairs": num_pairs, "peak_mb": peak_mb}


def measure_request(num_known: int, num_cpus: int, num_requests: int) -> dict:
    """The median time of requests of BATCH_SIZE candidates beside num_known instructions and more, in this process."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_cpus])
    from alpaca.generation.novelty import NoveltyFilter

    instructions = make_instructions(num_known + BATCH_SIZE * num_requests)
    new = instructions[num_known:]
    novelty_filter = NoveltyFilter(instructions[:num_known], num_cpus=num_cpus)
    times = []
    for first in range(0, len(new), BATCH_SIZE):
        start = time.perf_counter()
        novelty_filter.judge(new[first : first + BATCH_SIZE])
        times.append(time.perf_counter() - start)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    spread = (min(times), max(times))
    return {"known": num_known, "sec": statistics.median(times), "spread": spread, "peak_mb": peak_mb}


def measure_rouge_score(num_instructions: int) -> dict:
    """rouge-score on one core: pairs per second, over pairs drawn at random."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    from rouge_score import rouge_scorer

    from alpaca.generation.novelty import tokenize

    rng = random.Random(1)
    tokens = [tokenize(text) for text in make_instructions(num_instructions)]
    pairs = [rng.sample(tokens, 2) for _ in range(60_000)]
    for pair in pairs[:2000]:  # warm up
        rouge_scorer._score_lcs(*pair)
    start = time.perf_counter()
    for pair in pairs:
        rouge_scorer._score_lcs(*pair)  # what the original generator calls
    return {"sec": time.perf_counter() - start, "pairs": len(pairs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_instructions", type=int, default=52_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    n, repeats = arguments.num_instructions, arguments.repeats
    num_cores = min(2, len(os.sched_getaffinity(0)))
    rouge = median_of([in_own_process(measure_rouge_score, n) for _ in range(repeats)], "sec")
    rouge_speed = rouge["pairs"] / rouge["sec"]
    lines = [
        f"{machine()}, medians of {repeats}",
        f"rouge-score, 1 core: {rouge_speed:,.0f} pairs/s",
        "instructions  cores  seconds       (min-max)        pairs/s  x rouge-score  peak MB",
    ]
    rows = []
    for size, cores in [(n // 4, num_cores), (n // 2, num_cores), (n, 1), (n, num_cores), (2 * n, num_cores)]:
        runs = [in_own_process(measure_filter, size, cores) for _ in range(repeats if size <= n else 1)]
        result = median_of(runs, "sec")
        speed = result["pairs"] / result["sec"]
        rows.append(
            {"instructions": size, "cores": cores, **result, "pairs_per_sec": speed, "ratio": speed / rouge_speed}
        )
        spread = "{:.1f}-{:.1f}".format(*result["spread"])
        lines.append(
            f"{size:>12,}{cores:>7}{result['sec']:>9.1f}{spread:>16}{speed:>15,.0f}"
            f"{speed / rouge_speed:>15,.0f}{result['peak_mb']:>9.0f}"
        )
    lines.append("known instructions  cores  seconds per request of 85 (min-max)  peak MB")
    requests = [in_own_process(measure_request, size, num_cores, 6) for size in (n, 1_000_000)]
    for result in requests:
        spread = "{:.2f}-{:.2f}".format(*result["spread"])
        lines.append(f"{result['known']:>18,}{num_cores:>7}{result['sec']:>24.2f}{spread:>12}{result['peak_mb']:>9.0f}")
    lines.append(json.dumps({"requests": requests, "rouge_score_pairs_per_sec": rouge_speed, "rows": rows}))
    print_and_save("novelty", lines)


if __name__ == "__main__":
    main()
