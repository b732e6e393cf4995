import hashlib
import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from data import overlap
from tests.helpers import forks
from tests.helpers.commands import ROOT, assert_fails_in_one_line
from utils import jdump, jload

SENTENCES = (
    "The lighthouse keeper counted eleven ships before breakfast on the first clear morning of the year.",
    "None of them carried the letter that he had been waiting for since the autumn storms began.",
    "By noon a small blue boat came round the cape and dropped its sails below the tower.",
)
TEXT = " ".join(SENTENCES)
REWORDED = (
    "On the year's first bright day, eleven vessels went past the tower while its guard had not eaten yet. The message "
    "that he hoped for since bad weather set in was aboard no ship. At midday, a tiny craft rounded the headland."
)


@pytest.fixture(scope="module")
def examples() -> list[dict]:
    return jload(ROOT / "alpaca_data.json")[:300]


def example(**changes: str) -> dict:
    return {"instruction": "Retell the story for children.", "input": "", "output": "Once.", **changes}


def nearest(training: list[dict], part: str, text: str) -> overlap.Nearest:
    """How near training data comes to one text, which stands in the named field of an evaluation set."""
    return overlap.Data(training).nearest([example(**{part: text})], part)


# The two measures -----------------------------------------------------------------------------------------------------
def test_rouge_l_of_instructions_is_the_highest_of_all_pairs_and_names_the_example(examples):
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    training, evaluation = examples[:60], examples[60:90]
    near = overlap.Data(training).nearest(evaluation, "instruction")
    for k, e in enumerate(evaluation):
        scores = [scorer.score(t["instruction"], e["instruction"])["rougeL"].fmeasure for t in training]
        assert near.rouge_l[k] == max(scores) == scores[near.rouge_l_examples[k]]


def test_rouge_l_of_outputs_is_the_highest_of_the_pairs_that_share_four_words():
    scorer, rng = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False), random.Random(0)
    texts = [rng.choices("abcdefgh", k=rng.randint(8, 30)) for _ in range(60)]
    training, evaluation = texts[:20], texts[20:]

    def runs(words):
        return {tuple(words[i : i + 4]) for i in range(len(words) - 3)}

    def examples_of(texts):
        return [example(output=" ".join(words)) for words in texts]

    near = overlap.Data(examples_of(training)).nearest(examples_of(evaluation), "output")
    for k, words in enumerate(evaluation):
        sharing = [" ".join(t) for t in training if runs(t) & runs(words)]
        scores = [scorer.score(text, " ".join(words))["rougeL"].fmeasure for text in sharing]
        assert near.rouge_l[k] == max(scores, default=0)
    assert 5 < np.count_nonzero(near.rouge_l) < 40


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=8, max_size=20), min_size=1, max_size=4), st.data())
def test_the_share_of_8_grams_is_that_of_the_example_that_holds_most(texts, data):
    text = data.draw(st.lists(st.sampled_from("abc"), min_size=8, max_size=20))

    def runs(words):
        return {tuple(words[i : i + 8]) for i in range(len(words) - 7)}

    near = nearest([example(output=" ".join(words)) for words in texts], "output", " ".join(text))
    assert near.shared[0] == max(len(runs(text) & runs(words)) for words in texts) / len(runs(text))


@pytest.mark.parametrize(
    ("copy", "rouge_l", "shared"),  # True: above the default threshold
    [
        (TEXT, True, True),
        (TEXT.upper().replace(",", " --").replace(".", "!"), True, True),
        (" ".join(f"word{i}" if i % 10 == 5 else word for i, word in enumerate(TEXT.split())), True, False),
        (" ".join(f"word{i}" if i % 3 == 2 else word for i, word in enumerate(TEXT.split())), False, False),
        (" ".join(reversed(SENTENCES)), False, True),
        (f"{'Some other words stand before it. ' * 20}{TEXT}", False, True),
        (TEXT + " " + TEXT, False, True),
        (REWORDED, False, False),
        ("Lorem ipsum dolor sit amet.", False, False),
    ],
)
def test_a_planted_copy_is_found_as_long_as_words_and_their_order_remain(copy, rouge_l, shared):
    near = nearest([example(), example(output=copy), example()], "output", TEXT)
    assert (near.rouge_l[0] > 0.7, near.shared[0] > 0.2) == (rouge_l, shared), (near.rouge_l, near.shared)


@pytest.mark.parametrize(
    "training",
    [
        example(instruction=f"Continue this: {TEXT}"),
        example(input=TEXT),
        example() | {"messages": [{"role": "user", "content": text} for text in ("Hi", "Hi", "Again", TEXT)]},
    ],
)
def test_a_copy_in_another_field_or_in_a_later_message_shares_its_8_grams(training):
    near = nearest([example(), training], "output", TEXT)
    assert (near.shared[0], near.shared_examples[0]) == (1, 1)


def test_a_copy_is_found_in_any_alphabet():
    for text in (
        "小船绕过海角,在灯塔下落了帆。没有人看见它。",
        "Маленькая синяя лодка обошла мыс и спустила паруса у башни",
    ):
        assert nearest([example(output=f"{text}!")], "output", text).shared[0] == 1


def test_a_text_that_stands_in_a_hundred_examples_is_found_too():
    training = [example(input=TEXT, output=f"{i}.") for i in range(100)]
    near = nearest(training, "input", TEXT)
    assert (near.shared[0], near.rouge_l[0]) == (1, 1)


def test_short_inputs_and_outputs_are_left_out_since_they_agree_by_chance():
    assert len(nearest([example(output="Positive")], "output", "Positive").entries) == 0
    assert nearest([example(instruction="Add them.")], "instruction", "Add them.").rouge_l[0] == 1


def test_runs_do_not_go_over_the_end_of_a_text():
    halves = TEXT.split()
    training = [example(input=" ".join(halves[:24]), output=" ".join(halves[24:]))]
    near = nearest(training, "output", " ".join(halves[17:31]))
    assert near.shared[0] == 0


# The command ----------------------------------------------------------------------------------------------------------
def overlap_command(*arguments):
    return forks.run("-m", "data.check", "overlap", *arguments)


def test_copies_are_told_with_both_texts_the_hashes_of_both_files_and_exit_code_1(tmp_path, examples):
    import pyarrow
    import pyarrow.parquet

    paths = {name: tmp_path / name for name in ("data.parquet", "clean.jsonl", "copied.jsonl")}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([*examples[:50], example(input=TEXT)]), paths["data.parquet"])
    paths["clean.jsonl"].write_text(json.dumps({"instruction": "What do ferns live on?"}) + "\n")
    lines = [{"id": 1, "instruction": "Which ships came?", "instances": [{"input": TEXT, "output": "None."}]}]
    lines += [{"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello!"}]}]
    paths["copied.jsonl"].write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = overlap_command(
        "--data_path", paths["data.parquet"], "--against", paths["clean.jsonl"], paths["copied.jsonl"], "--num_pairs", 1
    )
    assert_fails_in_one_line(result, "data.parquet: 1 text of the evaluation sets in it")
    for path in paths.values():
        assert hashlib.sha256(path.read_bytes()).hexdigest() in result.stdout
    pair = "the input of entry 0, and example 50\n    The lighthouse keeper counted eleven"
    assert pair in result.stdout
    assert "What cannot be seen" in result.stdout


def test_sets_written_apart_pass_and_a_stricter_threshold_is_kept(tmp_path, examples):
    jdump(examples[:100], tmp_path / "data.json")
    jdump(examples[100:200], tmp_path / "eval.json")
    flags = ("--data_path", tmp_path / "data.json", "--against", tmp_path / "eval.json")
    assert overlap_command(*flags).returncode == 0
    assert overlap_command(*flags, "--max_rouge_l", 0.2).returncode == 1


def test_a_missing_evaluation_set_is_told_in_one_line(tmp_path):
    result = overlap_command("--data_path", ROOT / "alpaca_data.json", "--against", tmp_path / "no.json")
    assert_fails_in_one_line(result, "no.json: no such file")
    assert result.stdout == ""
