"""The novelty filter of Self-Instruct: is an instruction too similar to one that is already known?

ROUGE-L (Lin 2004) as the rouge-score package computes it, to the last bit. There, each longest common subsequence
takes a table of len(a) * len(b) Python numbers. Here instructions are tokenized once, and rapidfuzz scores a batch of
new ones against all known ones, bit-parallel and on several cores; it wants strings, of one character per token.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import array
import dataclasses
import itertools
import re

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
    nearest: int  # the position, among the known instructions, of the first with that score; 0 where none is known
    most_similar: dict[str, float] | None = None  # the ten most similar instructions, most similar first
    average: float | None = None


class NoveltyFilter:
    """The known instructions, in order, and the test whether others are new beside them."""

    def __init__(self, known: list[str], threshold: float = 0.7, num_cpus: int = 1):
        self.threshold = threshold
        self.num_cpus = num_cpus
        self.texts: list[str] = []
        self._vocabulary: dict[str, int] = {}
        # Of the known instructions: all token ids, one after the other; where each one's begin, and the last one's
        # end; and which length each one has, as the number of the length in the order of first occurrence.
        self._token_ids, self._bounds = array.array("i"), array.array("q", [0])
        self._length_ids, self._ids_of_lengths = array.array("H"), {}
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
        token_ids = [self._encode(text) for text in instructions]
        num_known = len(self.texts)
        lcs = self._lcs(token_ids)
        verdicts = []
        for row, (text, ids) in enumerate(zip(instructions, token_ids, strict=True)):
            # As if they had come one by one: the columns are those known by now, in the order of acceptance.
            scores = self._f_measures(lcs[row, : len(self.texts)], len(ids))
            nearest = int(scores.argmax()) if len(scores) else 0
            highest = float(scores[nearest]) if len(scores) else 0.0
            if highest > self.threshold:
                verdicts.append(Verdict(False, highest, nearest))
                continue
            most_similar = {self.texts[i]: float(scores[i]) for i in _highest_positions(scores)}
            average = float(np.mean(scores)) if len(scores) else 0.0
            verdicts.append(Verdict(True, highest, nearest, most_similar, average))
            lcs[:, len(self.texts)] = lcs[:, num_known + row]
            self._add(text, ids)
        return verdicts

    def _encode(self, text: str) -> list[int]:
        """The ids of the tokens of text."""
        return [self._vocabulary.setdefault(token, len(self._vocabulary)) for token in tokenize(text)]

    def _add(self, text: str, ids: list[int]) -> None:
        self.texts.append(text)
        self._token_ids.extend(ids)
        self._bounds.append(len(self._token_ids))
        self._length_ids.append(self._ids_of_lengths.setdefault(len(ids), len(self._ids_of_lengths)))

    def _lcs(self, new: list[list[int]]) -> np.ndarray:
        """The LCS of each new instruction with each known one, then with each of the new. int[new, known + new]."""
        lengths = [len(ids) for ids in new]
        new_ids = np.fromiter(itertools.chain.from_iterable(new), dtype=np.int32, count=sum(lengths))
        ids = np.concatenate([np.frombuffer(self._token_ids, dtype=np.int32), new_ids])
        bounds = np.concatenate(
            [np.frombuffer(self._bounds, dtype=np.int64), len(self._token_ids) + np.cumsum(lengths)]
        )
        # A token that none of the new instructions has is in no common subsequence. Without those tokens the strings
        # are half as long and need few characters, and one byte per character is what rapidfuzz is fastest with.
        present = np.unique(new_ids)
        fits_a_byte = len(present) <= np.iinfo(np.uint8).max
        characters = np.zeros(len(self._vocabulary), dtype=np.uint8 if fits_a_byte else np.uint32)
        characters[present] = np.arange(1, len(present) + 1)
        text = characters[ids]
        is_present = text != 0
        bounds = np.concatenate([[0], np.cumsum(is_present)])[bounds].tolist()
        text = text[is_present].tobytes()
        if not fits_a_byte:
            text = text.decode("utf-32-le", "surrogatepass")
        strings = [text[start:end] for start, end in itertools.pairwise(bounds)]
        return lcs_table(strings[-len(new) :], strings, self.num_cpus)

    def _f_measures(self, lcs: np.ndarray, new_length: int) -> np.ndarray:
        """The F-measures that belong to the LCS with each of the first len(lcs) known instructions. float64[n]."""
        # They depend on little, so they are looked up in a table of every length that occurs and every LCS.
        ids, lengths = np.frombuffer(self._length_ids, dtype=np.uint16), np.array(list(self._ids_of_lengths))
        if len(lengths) * (new_length + 1) > min(len(lcs), np.iinfo(np.uint16).max):
            return f_measure(lcs, lengths[ids[: len(lcs)]], new_length)
        table = f_measure(np.arange(new_length + 1), lengths[:, np.newaxis], new_length)
        return table.ravel()[ids[: len(lcs)] * np.uint16(new_length + 1) + lcs]


def nearest_neighbours(instructions: list[str], num_cpus: int = 1) -> np.ndarray:
    """The highest ROUGE-L F-measure of each instruction with any other of the list; 0 where there is no other.

    float32[n], right to about 7 digits.
    """
    vocabulary: dict[str, str] = {}
    codes = [
        "".join([vocabulary.setdefault(token, chr(len(vocabulary))) for token in tokenize(text)])
        for text in instructions
    ]
    lengths = np.array([len(code) for code in codes], dtype=np.float32)
    nearest = np.zeros(len(codes), dtype=np.float32)
    for start in range(0, len(codes), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        # Each pair once: a row's own maximum and, transposed, that of the instructions behind it.
        scores = lcs_table(codes[rows], codes[start:], num_cpus)
        scores = 2 * (scores / np.maximum(lengths[rows, None] + lengths[start:], 1))  # 2 * uint8 may overflow
        np.fill_diagonal(scores, 0)
        nearest[rows] = np.maximum(nearest[rows], scores.max(axis=1))
        nearest[start:] = np.maximum(nearest[start:], scores.max(axis=0))
    return nearest


def lcs_table(new: list, known: list, num_cpus: int) -> np.ndarray:
    """The LCS of each of some strings (or bytes) with each of others, in the smallest of two types that holds it.
    uint8 or int32[new, known]."""
    from rapidfuzz.distance import LCSseq
    from rapidfuzz.process import cdist

    dtype = np.uint8 if max(map(len, new)) <= np.iinfo(np.uint8).max else np.int32
    return cdist(new, known, scorer=LCSseq.similarity, dtype=dtype, workers=num_cpus)


def f_measure(lcs: np.ndarray, known_lengths: np.ndarray, new_length: int) -> np.ndarray:
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
