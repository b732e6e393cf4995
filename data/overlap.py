"""Contamination: does training data hold examples of the sets that a model is to be evaluated on?

python -m data.check overlap --data_path alpaca_data.json --against eval.jsonl more_of_them.json

Beside each instruction, input and output of an evaluation set, two measures of the nearest example of the data:

- shared 8-grams, the share of its runs of eight words that one example holds, in whatever field or message of a
  conversation. Words are those of any alphabet, in lower case; a Chinese or Japanese character is a word.
- ROUGE-L (F-measure, as in the novelty filter: ASCII letters and digits) to the same field: of instructions exactly,
  all pairs; of inputs and outputs exactly for the pairs that share a run of four words.

What this misses: paraphrases that keep neither word order nor words; translations; inputs and outputs of fewer than
eight words, which agree by chance ("Positive"), so that they are left out; a pair of inputs or outputs whose every
common run of four words stands in 20 earlier examples; ROUGE-L of other alphabets. benchmarks/README.md has numbers.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import array
import os
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from alpaca.examples import FIELDS, load_examples, read_entries, sha256_of
from alpaca.generation.novelty import NoveltyFilter, f_measure, lcs_table, tokenize
from utils import UserError

RUN, CANDIDATE_RUN = 8, 4  # words
MOST_OWNERS = 20  # examples looked at for one run: stock phrases stand in thousands
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
MISSED = (
    "What cannot be seen: copies reworded throughout or translated, inputs and outputs of fewer than eight words, and "
    "ROUGE-L of inputs and outputs that share no run of four words."
)


@dataclass
class Words:
    """The words of texts, one text after another. int32[number of words] each."""

    ids: np.ndarray
    texts: np.ndarray  # which text each word is of
    owners: np.ndarray  # and whose text that is


@dataclass
class Nearest:
    """Of each text of one field: how near the data comes, and with which example. All have the length of the texts."""

    part: str
    entries: np.ndarray  # int, the texts' positions in the evaluation set
    rouge_l: np.ndarray  # float, 0 where no pair was looked at
    rouge_l_examples: np.ndarray  # int
    shared: np.ndarray  # float, the share of 8-grams
    shared_examples: np.ndarray  # int


def words_of(texts: Iterable[tuple[int, str]], vocabulary: dict[str, int]) -> Words:
    """The words of (owner, text) pairs; new ones enter the vocabulary."""
    ids, lengths, owners = array.array("i"), [], []
    for owner, text in texts:
        words = WORD.findall(text.lower())
        ids.extend([vocabulary.setdefault(word, len(vocabulary)) for word in words])
        lengths.append(len(words))
        owners.append(owner)
    numbers = np.arange(len(lengths), dtype=np.int32).repeat(lengths)
    return Words(np.frombuffer(ids, dtype=np.int32), numbers, np.array(owners, dtype=np.int32)[numbers])


def hashed_runs(words: Words, length: int) -> tuple[np.ndarray, np.ndarray]:
    """A hash of each run of words within a text, and its owner; equal pairs once, in order. uint64[n], int32[n]"""
    num_runs = max(0, len(words.ids) - length + 1)
    hashes = np.zeros(num_runs, dtype=np.uint64)
    # Odd constants of 64 bits; among 10 million runs, the chance of two with one hash is one in 100,000.
    ids = (words.ids.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    ids ^= ids >> np.uint64(29)
    for k in range(length):
        hashes *= np.uint64(0xD1342543DE82EF95)
        hashes += ids[k : k + num_runs]
    within = words.texts[:num_runs] == words.texts[length - 1 :][:num_runs]
    hashes, owners = hashes[within], words.owners[:num_runs][within]
    order = np.lexsort((owners, hashes))
    hashes, owners = hashes[order], owners[order]
    is_first = np.ones(len(hashes), dtype=bool)
    is_first[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    return hashes[is_first], owners[is_first]


def shared_runs(
    runs: tuple[np.ndarray, np.ndarray], data_runs: tuple[np.ndarray, np.ndarray], num_examples: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Owners that share a run: (owner, example, number of runs that they share), ordered by owner. int64[n] each.

    A run that more than MOST_OWNERS examples hold counts for the first of them only.
    """
    (hashes, owners), (data_hashes, examples) = runs, data_runs
    first = data_hashes.searchsorted(hashes)
    numbers = np.minimum(data_hashes.searchsorted(hashes, side="right") - first, MOST_OWNERS)
    begins = np.cumsum(numbers) - numbers
    positions = np.arange(numbers.sum()) + (first - begins).repeat(numbers)
    pairs = owners.astype(np.int64).repeat(numbers) * num_examples + examples[positions]
    pairs, counts = np.unique(pairs, return_counts=True)
    return *np.divmod(pairs, num_examples), counts


def highest_scores(instructions: list[str], known: list[str], num_cpus: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The ROUGE-L F-measure of each instruction to the nearest known one, and which one that is. float[n], int[n]"""
    # With a threshold below zero none is novel, so that they are not compared with one another.
    verdicts = NoveltyFilter(known, threshold=-1.0, num_cpus=num_cpus).judge(instructions)
    return np.array([v.highest for v in verdicts]), np.array([v.nearest for v in verdicts])


def highest_scores_of_candidates(
    texts: list[str], known: list[str], owners: np.ndarray, examples: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same among the pairs that are given, text owners[i] with known text examples[i], ordered by owner."""
    characters: dict[str, str] = {}
    codes = ["".join([characters.setdefault(t, chr(len(characters))) for t in tokenize(text)]) for text in texts]
    known_codes, known_lengths = {}, {}
    for i in np.unique(examples).tolist():
        tokens = tokenize(known[i])
        # A token that no text has is in no common subsequence.
        known_codes[i] = "".join([characters[token] for token in tokens if token in characters])
        known_lengths[i] = len(tokens)
    scores, nearest = np.zeros(len(texts)), np.zeros(len(texts), dtype=np.int64)
    starts = owners.searchsorted(np.arange(len(texts) + 1))
    for i, code in enumerate(codes):
        if candidates := examples[starts[i] : starts[i + 1]].tolist():
            lcs = lcs_table([code], [known_codes[j] for j in candidates], 1)[0]
            f_measures = f_measure(lcs, np.array([known_lengths[j] for j in candidates]), len(code))
            scores[i], nearest[i] = f_measures.max(), candidates[f_measures.argmax()]
    return scores, nearest


class Data:
    """Training data, ready to be searched: its examples, and the runs of words in them."""

    def __init__(self, examples: list[dict]):
        self.examples = examples
        self.vocabulary: dict[str, int] = {}
        words = words_of(((i, text) for i, e in enumerate(examples) for text in all_texts(e)), self.vocabulary)
        self.runs = {length: hashed_runs(words, length) for length in (RUN, CANDIDATE_RUN)}

    def nearest(self, evaluation: list[dict], part: str) -> Nearest:
        """How near the data comes to one field of an evaluation set, where the field is long enough to say."""
        known = [example[part] for example in self.examples]
        least = 1 if part == "instruction" else RUN
        entries = [i for i, e in enumerate(evaluation) if len(WORD.findall(e[part].lower())) >= least]
        texts = [evaluation[i][part] for i in entries]
        words = words_of(enumerate(texts), self.vocabulary)
        runs = hashed_runs(words, RUN)
        owners, examples, counts = shared_runs(runs, self.runs[RUN], len(known))
        num_runs = np.bincount(runs[1], minlength=len(texts))
        shared, shared_examples = np.zeros(len(texts)), np.zeros(len(texts), dtype=np.int64)
        order = np.argsort(counts, kind="stable")  # the last one assigned stays
        shared[owners[order]] = counts[order] / num_runs[owners[order]]
        shared_examples[owners[order]] = examples[order]
        if part == "instruction":
            scores, nearest = highest_scores(texts, known, len(os.sched_getaffinity(0)))
        else:
            candidates = shared_runs(hashed_runs(words, CANDIDATE_RUN), self.runs[CANDIDATE_RUN], len(known))
            scores, nearest = highest_scores_of_candidates(texts, known, *candidates[:2])
        return Nearest(part, np.array(entries), scores, nearest, shared, shared_examples)


def all_texts(example: dict) -> list[str]:
    """The texts in which training shows an example: its fields, or a conversation's messages."""
    return [m["content"] for m in example["messages"]] if "messages" in example else [example[f] for f in FIELDS]


def overlap(
    data_path: str, against: list[str], max_rouge_l: float = 0.7, max_shared: float = 0.2, num_pairs: int = 5
) -> None:
    """Look for evaluation sets in training data; exit code 1 where a text is nearer than a threshold allows.

    The defaults lie above what sets that were written apart have in common: of some 6,000 texts of the Self-Instruct
    evaluation and seed tasks and of 1,989 examples of 2023, beside this data or those examples, one instruction had a
    higher ROUGE-L (0.72, "Make a list of the pros and cons of the given decision.") and none shared more than 9% of
    its 8-grams. With them a copy is found with every fifth word replaced, and not with every third.

    Args:
        data_path: Training data, in any format that train.py reads.
        against: Evaluation sets, in the same formats; outputs may be missing.
        max_rouge_l: Highest ROUGE-L that an instruction, input or output may have to an example.
        max_shared: Largest share of its 8-grams that one example may hold.
        num_pairs: How many of the nearest pairs are shown for each set.
    """
    # First, for a wrong path in a list is soon told.
    sets = {path: [e for _, _, e in read_entries(path, optional=("input", "output"))] for path in against}
    examples = load_examples(data_path)
    print(f"{data_path}: {len(examples):,} examples, SHA-256 {sha256_of(data_path, examples)}")
    data, num_near = Data(examples), 0
    for path, evaluation in sets.items():
        print(f"\n{path}: {len(evaluation):,} examples, SHA-256 {sha256_of(path, evaluation)}")
        fields = [data.nearest(evaluation, part) for part in FIELDS]
        pairs = [
            (max(near.rouge_l[k] / max_rouge_l, near.shared[k] / max_shared), near, k)
            for near in fields
            for k in range(len(near.entries))
        ]
        print(table(fields, pairs))
        pairs.sort(key=lambda pair: -pair[0])
        for nearness, near, k in pairs[:num_pairs]:
            print(describe(near, k, evaluation, examples, near.rouge_l[k] / max_rouge_l == nearness))
        num_near += sum(bool(nearness > 1) for nearness, _, _ in pairs)
    print("\n" + textwrap.fill(MISSED, 120))
    if num_near:
        limits = f"ROUGE-L above {max_rouge_l:g} or more than {max_shared:.0%} of the 8-grams"
        raise UserError(f"{data_path}: {num_near} text{'s' * (num_near > 1)} of the evaluation sets in it ({limits}).")


def table(fields: list[Nearest], pairs: list[tuple[float, Nearest, int]]) -> str:
    """A line for each field; pairs holds (nearness, its Nearest, position), where a nearness above 1 is too near."""
    heads = ("texts", "ROUGE-L: median", "95%", "highest", "with a shared 8-gram", "largest share", "too near")
    lines = [f"{'':<12}" + "  ".join(heads)]
    for near in fields:
        if len(near.entries):
            quantiles = [f"{q:.2f}" for q in np.quantile(near.rouge_l, (0.5, 0.95, 1))]
            shared = [f"{(near.shared > 0).sum():,}", f"{near.shared.max():.0%}"]
            too_near = sum(nearness > 1 for nearness, field, _ in pairs if field is near)
            values = [f"{len(near.entries):,}", *quantiles, *shared, f"{too_near:,}"]
            cells = [f"{value:>{len(head)}}" for value, head in zip(values, heads, strict=True)]
            lines.append(f"{near.part:<12}" + "  ".join(cells))
    return "\n".join(lines)


def describe(near: Nearest, k: int, evaluation: list[dict], examples: list[dict], by_rouge_l: bool) -> str:
    """A text of the evaluation set, and below it the example that comes nearest by one of the measures."""
    entry, i = near.entries[k], (near.rouge_l_examples if by_rouge_l else near.shared_examples)[k]
    if by_rouge_l:
        head, text = f"ROUGE-L {near.rouge_l[k]:.2f}", examples[i][near.part]
    else:
        head, text = f"{near.shared[k]:.0%} of the 8-grams", " / ".join(all_texts(examples[i]))
    lines = [f"{head}: the {near.part} of entry {entry}, and example {i}"]
    lines += [f"    {textwrap.shorten(t, 110, placeholder=' ...')}" for t in (evaluation[entry][near.part], text)]
    return "\n".join(lines)
