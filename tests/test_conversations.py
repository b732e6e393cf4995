"""Conversations as data: ids as the saved chat template makes them, labels on every answer, bad ones told."""

import json
import re

import pytest

import train
from alpaca.examples import INPUT_BEGINS, load_examples
from alpaca.training.conversations import chat_template
from tests.test_tokenization import MAKERS, tokenizer  # noqa: F401 - every kind of tokenizer
from utils import UserError, jdump

THREE_FIELDS = [
    {"instruction": "Name the capital of France.", "input": "", "output": "Paris."},
    {"instruction": "Sort the list.", "input": "pear, apple", "output": "apple, pear"},
]
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a colour."},
    {"role": "assistant", "content": ":red"},
    {"role": "user", "content": "Another: one"},
    {"role": "assistant", "content": " blue\n"},
    {"role": "user", "content": "12?"},
    {"role": "assistant", "content": "12"},
]


def as_messages(example):
    question = example["instruction"] + (INPUT_BEGINS + example["input"] if example["input"] else "")
    return [{"role": "user", "content": question}, {"role": "assistant", "content": example["output"]}]


def as_sharegpt(messages):
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return {"conversations": [{"from": names[m["role"]], "value": m["content"]} for m in messages]}


def dataset_of(entries, tokenizer, tmp_path, max_length=1000):  # noqa: F811
    jdump(entries, tmp_path / "data.json")
    before, tokenizer.model_max_length = tokenizer.model_max_length, max_length
    try:
        return train.SupervisedDataset(str(tmp_path / "data.json"), tokenizer)
    finally:
        tokenizer.model_max_length = before


def answers_in(item, tokenizer):  # noqa: F811
    """The runs of labels, as ids."""
    runs, previous = [], -100
    for label in item["labels"].tolist():
        if label != -100:
            if previous == -100 or previous == tokenizer.eos_token_id:
                runs.append([])
            runs[-1].append(label)
        previous = label
    return runs


def test_one_turn_gives_the_ids_and_labels_of_the_three_fields(tokenizer, tmp_path):  # noqa: F811
    expected = list(dataset_of(THREE_FIELDS, tokenizer, tmp_path))
    conversations = [as_messages(example) for example in THREE_FIELDS]
    for entries in ([{"messages": c} for c in conversations], [as_sharegpt(c) for c in conversations]):
        for item, other in zip(dataset_of(entries, tokenizer, tmp_path), expected, strict=True):
            assert item["input_ids"].tolist() == other["input_ids"].tolist()
            assert item["labels"].tolist() == other["labels"].tolist()


def test_several_turns_give_the_ids_of_the_chat_template_and_labels_on_every_answer(tokenizer, tmp_path):  # noqa: F811
    tokenizer.chat_template = chat_template(tokenizer)
    for messages in (TURNS, TURNS[1:], as_messages(THREE_FIELDS[1]) + TURNS[3:]):
        [item] = dataset_of([{"messages": messages}], tokenizer, tmp_path)
        rendered = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
        if tokenizer.maker != "text end added":  # there, servers leave the end away as they do the beginning
            assert item["input_ids"].tolist() == rendered
        answers = answers_in(item, tokenizer)
        assert len(answers) == sum(m["role"] == "assistant" for m in messages)
        assert all(answer[-1] == tokenizer.eos_token_id for answer in answers)


def test_a_conversation_that_is_too_long_ends_with_its_last_whole_answer(tiny_llama, tmp_path):
    tokenizer = train.load_tokenizer(str(tiny_llama), None, 1000)[0]  # noqa: F811
    [whole] = dataset_of([{"messages": TURNS}], tokenizer, tmp_path)
    n = len(whole["input_ids"])
    last_answer = answers_in(whole, tokenizer)[-1]
    for max_length in (n, n - 1, n - len(last_answer)):
        dataset = dataset_of([{"messages": TURNS}], tokenizer, tmp_path, max_length)
        [item] = dataset
        assert len(item["input_ids"]) <= max_length
        assert len(answers_in(item, tokenizer)) == (3 if max_length == n else 2)
        assert item["input_ids"][-1] == tokenizer.eos_token_id
        assert ("1 conversations lose their last answers" in dataset.summary()) == (max_length < n)


def test_a_file_may_hold_both_kinds_and_a_conversation_counts_as_its_first_question(tmp_path):
    jdump([THREE_FIELDS[1], {"messages": TURNS}, as_sharegpt(as_messages(THREE_FIELDS[1]))], tmp_path / "data.json")
    fields, conversation, one_turn = load_examples(tmp_path / "data.json")
    assert fields == THREE_FIELDS[1]
    assert conversation == {"instruction": "Name a colour.", "input": "", "output": ":red", "messages": TURNS}
    assert one_turn == THREE_FIELDS[1] | {"messages": as_messages(THREE_FIELDS[1])}


def test_parquet_holds_conversations_too(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{"messages": TURNS, "source": "web"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data.parquet")
    assert load_examples(tmp_path / "data.parquet")[0]["messages"] == TURNS


USER, ASSISTANT = {"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}
IMAGE = {"role": "user", "content": [{"type": "image", "url": "cat.png"}]}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([ASSISTANT], "a message 0 of the assistant, where one of the user has to be"),
        ([USER, ASSISTANT, USER], "ends without a message of the assistant"),
        ([USER, {"role": "tool", "content": "3"}], "a message 1 of the role 'tool'; known are"),
        ([USER, USER, ASSISTANT], "a message 1 of the user, where one of the assistant has to be"),
        ([USER, ASSISTANT, {"role": "system", "content": "x"}], "a message 2 of the system, where one of the user"),
        ([USER, {"role": "assistant", "content": " "}], "has an empty message 1"),
        ([IMAGE, ASSISTANT], "a message 0 whose content is not text but list"),
        ([USER, {"role": "assistant"}], "a message 1 whose content is not text but NoneType"),
        ([USER, "Hello."], "a message 1 that is not an object but str"),
        ([], "has no list of messages"),
        ("Hi.", "has no list of messages"),
    ],
)
def test_a_conversation_that_cannot_be_trained_on_is_refused_with_index_and_reason(messages, message, tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"messages": m}) for m in ([USER, ASSISTANT], messages)))
    with pytest.raises(UserError, match=rf"a\.jsonl, line 2 .*{re.escape(message)}.*\(1 of 2 entries"):
        load_examples(tmp_path / "a.jsonl")


def test_the_kinds_of_tokenizers_are_those_of_llama_llama_3_qwen_mistral_and_smollm2():
    assert {"LLaMA of 2023", "metaspace first", "words looked up first", "byte level"} <= set(MAKERS)


@pytest.mark.slow  # three runs of training on the released examples
def test_the_released_sample_as_conversations_gives_the_same_losses_bit_for_bit(
    tiny_llama, reference_data, tmp_path, monkeypatch
):
    from tests.test_evaluation import train_here

    examples = load_examples(reference_data / "alpaca_sample.json")
    jdump([{"messages": as_messages(e)} for e in examples], tmp_path / "messages.json")
    jdump([as_sharegpt(as_messages(e)) for e in examples], tmp_path / "sharegpt.json")
    losses = []
    for path in (reference_data / "alpaca_sample.json", tmp_path / "messages.json", tmp_path / "sharegpt.json"):
        log = train_here(monkeypatch, tiny_llama, path, tmp_path / path.stem, max_steps=4, eval_size=200)
        losses.append([entry.get("loss", entry.get("eval_loss")) for entry in log])
    assert losses[0] == losses[1] == losses[2]
