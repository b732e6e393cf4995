"""The novelty filter against the rouge-score package, which knows nothing of it."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from alpaca.generation import novelty
from alpaca.generation.novelty import NoveltyFilter, tokenize

SCORER = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)

# Few words, so that many of them are common; and text that tokenizers treat differently.
WORDS = st.lists(st.sampled_from("a b c d the of Sort sort, 3.5 it's".split()), max_size=12).map(" ".join)
TEXTS = st.one_of(WORDS, st.text(max_size=30), st.text("aAbB1 .é\u0130\u212a\n", max_size=30))


def scores_by_rouge_score(text: str, known: list[str]) -> list[float]:
    """The F-measure of text, as the target, with each known text, as the prediction."""
    return [SCORER.score(text, other)["rougeL"].fmeasure for other in known]


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=8))
def test_every_score_equals_that_of_rouge_score_to_the_last_bit(text, known):
    expected = scores_by_rouge_score(text, known)
    (verdict,) = NoveltyFilter(known, threshold=1.0).judge([text])
    assert verdict.highest == max(expected)
    assert verdict.average == float(np.mean(expected))
    assert verdict.most_similar == dict(sorted(zip(known, expected, strict=True), key=lambda pair: pair[1]))


@given(TEXTS)
def test_tokens_are_those_of_rouge_score(text):
    assert tokenize(text) == SCORER._tokenizer.tokenize(text)


def test_texts_without_any_token_score_zero():
    (first, second) = NoveltyFilter(["...", "sort this"], threshold=1.0).judge(["!!!", "sort"])
    assert (first.highest, first.average, second.highest) == (0.0, 0.0, 2 / 3)


def one_by_one(texts: list[str], known: list[str], threshold: float) -> tuple[list[bool], list[float]]:
    """The decisions and averages of the plain procedure: score each against all known, keep it or not."""
    known, decisions, averages = list(known), [], []
    for text in texts:
        scores = scores_by_rouge_score(text, known)
        decisions.append(max(scores) <= threshold)
        averages.append(float(np.mean(scores)) if decisions[-1] else None)
        if decisions[-1]:
            known.append(text)
    return decisions, averages


@pytest.mark.parametrize("batch_size", [1, 7, 60])
@pytest.mark.parametrize("threshold", [0.4, 0.7])
def test_a_batch_is_judged_as_if_its_instructions_came_one_by_one(batch_size, threshold, monkeypatch):
    monkeypatch.setattr(novelty, "ROWS_AT_ONCE", 16)
    rng = random.Random(batch_size)
    texts = [" ".join(rng.choices("abcdefgh", k=rng.randint(0, 9))) for _ in range(180)]
    known, new = texts[:20], texts[20:]
    novelty_filter = NoveltyFilter(known, threshold, num_cpus=2)
    verdicts = [v for i in range(0, len(new), batch_size) for v in novelty_filter.judge(new[i : i + batch_size])]
    decisions, averages = one_by_one(new, known, threshold)
    assert [verdict.is_novel for verdict in verdicts] == decisions
    assert [verdict.average for verdict in verdicts] == averages
    assert novelty_filter.texts == known + [text for text, novel in zip(new, decisions, strict=True) if novel]


def test_an_instruction_exactly_at_the_threshold_is_kept():
    known, new = "a b c d e f g", "a b c d e f x"  # F = 6/7
    assert scores_by_rouge_score(new, [known]) == [6 / 7]
    assert NoveltyFilter([known], 6 / 7).judge([new])[0].is_novel
    assert not NoveltyFilter([known], np.nextafter(6 / 7, 0)).judge([new])[0].is_novel


def test_very_long_instructions_are_scored_exactly():
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abcdefghij", k=700)) for _ in range(4)]
    (verdict,) = NoveltyFilter(texts[1:], threshold=1.0).judge(texts[:1])
    assert verdict.most_similar == dict(zip(texts[1:], scores_by_rouge_score(texts[0], texts[1:]), strict=True))


def test_more_words_than_fit_in_one_or_two_bytes_stay_apart():
    texts = [f"w{i} w{i + 1} w{i + 2}" for i in range(0, 70_000, 3)]
    novelty_filter = NoveltyFilter(texts, threshold=0.9)
    verdicts = novelty_filter.judge(["w0 w1 x", "w300 w301 x", "w69000 w69001 x", texts[-1]])
    assert [verdict.highest for verdict in verdicts] == [2 / 3, 2 / 3, 2 / 3, 1.0]


@pytest.mark.parametrize("num_known", [10, 11, 64, 700, 5000])
def test_the_ten_most_similar_come_first_on_both_sides_of_the_switch_of_method(num_known, monkeypatch):
    rng = np.random.default_rng(num_known)
    scores = np.round(rng.random(num_known), 2)
    expected = np.sort(scores)[::-1][:10]
    for limit in (0 if num_known >= 640 else 4096, 10_000):
        monkeypatch.setattr(novelty, "MAX_SORTED_WHOLE", limit)
        positions = novelty._highest_positions(scores)
        assert scores[positions].tolist() == expected.tolist()
        assert len(set(positions.tolist())) == 10


def test_equal_texts_among_the_ten_share_one_key():
    (verdict,) = NoveltyFilter(["sort this list"] * 8 + ["read that book"] * 8, threshold=1.0).judge(["sort this"])
    assert verdict.most_similar == {"sort this list": 0.8, "read that book": 0.0}


@pytest.mark.parametrize("name", ["regen_reference_128.json", "regen_reference_73.json"])
def test_the_scores_in_the_originals_files_are_found_again(name, reference_data):
    lines = (reference_data / "seed_tasks_reference.jsonl").read_text(encoding="utf-8").splitlines()
    reference = json.loads((reference_data / name).read_text(encoding="utf-8"))
    novelty_filter = NoveltyFilter([json.loads(line)["instruction"] for line in lines])
    verdicts = novelty_filter.judge([entry["instruction"] for entry in reference])
    for verdict, entry in zip(verdicts, reference, strict=True):
        assert verdict.average == entry["avg_similarity_score"]
        assert list(verdict.most_similar.items()) == list(entry["most_similar_instructions"].items())
