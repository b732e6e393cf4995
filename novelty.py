"""The novelty filter of Self-Instruct: is an instruction too similar to one that is already known?

ROUGE-L (Lin 2004) as the rouge-score package computes it, to the last bit. Its longest common subsequence takes a
table of len(a) * len(b) Python numbers; here each instruction is encoded once as a string of one character per
token, and rapidfuzz scores a batch of new strings against all known ones, bit-parallel and on several cores.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import dataclasses
import re
import sys

import numpy as np

NUM_MOST_SIMILAR = 10
MAX_SORTED_WHOLE = 4096  # known instructions; beyond, sorting all scores would take longer than computing them
ROWS_AT_ONCE = 128  # bounds the memory: against 100,000 known instructions, one byte per pair makes 13 MB


def tokenize(text: str) -> list[str]:
    """The tokens of rouge-score's default tokenizer, without stemming.

    >>> tokenize("It's 3.5 km, naïve Ünal!")
    ['it', 's', '3', '5', 'km', 'na', 've', 'nal']
    """
    return re.findall("[a-z0-9]+", text.lower())


@dataclasses.dataclass
class Verdict:
    """What the filter found for one instruction; the scores are ROUGE-L F-measures against what was known before."""

    is_novel: bool
    highest: float
    most_similar: dict[str, float] | None = None  # the ten most similar instructions, most similar first
    average: float | None = None


class NoveltyFilter:
    """The known instructions, in order, and the test whether others are new beside them."""

    def __init__(self, known: list[str], threshold: float = 0.7, num_cpus: int = 1):
        self.threshold = threshold
        self.num_cpus = num_cpus
        self.texts: list[str] = []
        self._vocabulary: dict[str, str] = {}
        self._codes: list[str] = []  # one character per token
        self._lengths = np.empty(1024, dtype=np.int64)  # tokens per known instruction; grows by doubling
        for text in known:
            self._add(text, self._encode(text))

    def judge(self, instructions: list[str]) -> list[Verdict]:
        """Judge instructions one after the other; those that are novel become known.

        A novel instruction comes with its ten most similar ones and its average F-measure over all known ones.
        """
        verdicts = []
        for start in range(0, len(instructions), ROWS_AT_ONCE):
            verdicts += self._judge_batch(instructions[start : start + ROWS_AT_ONCE])
        return verdicts

    def _judge_batch(self, instructions: list[str]) -> list[Verdict]:
        from rapidfuzz.distance import LCSseq
        from rapidfuzz.process import cdist

        codes = [self._encode(text) for text in instructions]
        dtype = np.uint8 if max(map(len, codes)) <= np.iinfo(np.uint8).max else np.int32
        num_known = len(self.texts)
        # One row per new instruction: its LCS with each known one, then with each of the batch.
        lcs = cdist(codes, self._codes + codes, scorer=LCSseq.similarity, dtype=dtype, workers=self.num_cpus)
        verdicts = []
        for row, (text, code) in enumerate(zip(instructions, codes, strict=True)):
            # As if they had come one by one: the columns are those known by now, in the order of acceptance.
            scores = _f_measure(lcs[row, : len(self.texts)], self._lengths[: len(self.texts)], len(code))
            highest = float(scores.max(initial=0.0))
            if highest > self.threshold:
                verdicts.append(Verdict(False, highest))
                continue
            most_similar = {self.texts[i]: float(scores[i]) for i in _highest_positions(scores)}
            average = float(np.mean(scores)) if len(scores) else 0.0
            verdicts.append(Verdict(True, highest, most_similar, average))
            lcs[:, len(self.texts)] = lcs[:, num_known + row]
            self._add(text, code)
        return verdicts

    def _encode(self, text: str) -> str:
        """One character per token, the same for the same token."""
        vocabulary = self._vocabulary
        for token in (tokens := tokenize(text)):
            if token not in vocabulary:
                if len(vocabulary) > sys.maxunicode:
                    raise OverflowError(f"more than {sys.maxunicode:,} different words")
                vocabulary[token] = chr(len(vocabulary))
        return "".join([vocabulary[token] for token in tokens])

    def _add(self, text: str, code: str) -> None:
        if len(self.texts) == len(self._lengths):
            self._lengths = np.concatenate([self._lengths, np.empty_like(self._lengths)])
        self._lengths[len(self.texts)] = len(code)
        self.texts.append(text)
        self._codes.append(code)


def nearest_neighbours(instructions: list[str], num_cpus: int = 1) -> np.ndarray:
    """The highest ROUGE-L F-measure of each instruction with any other of the list; 0 where there is no other.

    float32[n], right to about 7 digits.
    """
    from rapidfuzz.distance import LCSseq
    from rapidfuzz.process import cdist

    known = NoveltyFilter(instructions)
    codes, lengths = known._codes, known._lengths[: len(instructions)].astype(np.float32)
    dtype = np.uint8 if max(map(len, codes), default=0) <= np.iinfo(np.uint8).max else np.int32
    nearest = np.zeros(len(codes), dtype=np.float32)
    for start in range(0, len(codes), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        # Each pair once: a row's own maximum and, transposed, that of the instructions behind it.
        scores = cdist(codes[rows], codes[start:], scorer=LCSseq.similarity, dtype=dtype, workers=num_cpus)
        scores = 2 * scores / np.maximum(lengths[rows, None] + lengths[start:], 1)
        np.fill_diagonal(scores, 0)
        nearest[rows] = np.maximum(nearest[rows], scores.max(axis=1))
        nearest[start:] = np.maximum(nearest[start:], scores.max(axis=0))
    return nearest


def _f_measure(lcs: np.ndarray, known_lengths: np.ndarray, new_length: int) -> np.ndarray:
    """F = 2PR / (P + R) with P = lcs / known length and R = lcs / new length; 0 where lcs is 0. Broadcasts."""
    # The order of the operations is rouge-score's: another one rounds differently.
    precision = lcs / np.maximum(known_lengths, 1)
    recall = lcs / max(new_length, 1)
    total = precision + recall
    total[total == 0] = 1.0
    return 2 * precision * recall / total


def _highest_positions(scores: np.ndarray) -> np.ndarray:
    """The positions of the ten highest scores, highest first."""
    if len(scores) <= MAX_SORTED_WHOLE:
        # Ties come as in the original's files: as numpy's introsort leaves them. For float64 newer versions of
        # numpy sort with vector instructions, where ties fall differently on each machine; for long double not.
        return np.argsort(scores.astype(np.longdouble))[: -NUM_MOST_SIMILAR - 1 : -1]
    # The tenth highest of the maxima of 64 scores each is a bound that ten scores reach, and few others.
    width = len(scores) // 64
    maxima = scores[: 64 * width].reshape(64, width).max(axis=0)
    bound = np.partition(maxima, -NUM_MOST_SIMILAR)[-NUM_MOST_SIMILAR]
    candidates = np.flatnonzero(scores >= bound)
    return candidates[np.argsort(scores[candidates])[: -NUM_MOST_SIMILAR - 1 : -1]]
