"""train.py in parts: labels, batches, new embedding rows, the chat template, processes, adapters."""

import json
import types

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import train
from alpaca.training import arguments
from tests.helpers.training import EXAMPLES, parse
from utils import UserError, format_prompt, jdump

pytestmark = pytest.mark.usefixtures("environment_as_it_is")


@pytest.fixture(params=["tiny_llama", "tiny_opt"])
def tokenizer(request):
    return train.load_tokenizer(str(request.getfixturevalue(request.param)), None, 128)[0]


def reference_example(example, tokenizer):
    """Labels as the contract words them, one example and one call at a time."""
    source = format_prompt(example["instruction"], example["input"])
    ids = tokenizer(source + example["output"] + tokenizer.eos_token).input_ids[: tokenizer.model_max_length]
    num_source = len(tokenizer(source).input_ids[: tokenizer.model_max_length])
    return ids, [-100] * num_source + ids[num_source:]


def assert_equal_to_reference(dataset, examples, tokenizer):
    assert len(dataset) == len(examples)
    for item, example in zip(dataset, examples, strict=True):
        ids, labels = reference_example(example, tokenizer)
        assert item["input_ids"].tolist() == ids
        assert item["labels"].tolist() == labels
        assert item["labels"].dtype == torch.int64


# ---- Labels and batches ----


def test_labels_equal_an_independent_reference(tokenizer, tmp_path):
    jdump(EXAMPLES, tmp_path / "data.json")
    dataset = train.SupervisedDataset(str(tmp_path / "data.json"), tokenizer)
    assert_equal_to_reference(dataset, EXAMPLES, tokenizer)
    assert len(dataset[4]["input_ids"]) == 128
    assert set(dataset[4]["labels"].tolist()) == {-100}


def test_labels_equal_an_independent_reference_on_the_released_sample(tokenizer, reference_data):
    path = reference_data / "alpaca_sample.json"
    tokenizer.model_max_length = 512
    examples = json.loads(path.read_text(encoding="utf-8"))
    assert_equal_to_reference(train.SupervisedDataset(str(path), tokenizer), examples, tokenizer)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(examples=st.lists(st.fixed_dictionaries({"instruction": text, "input": text, "output": text}), min_size=1))
def test_labels_equal_the_reference_for_any_text(tokenizer, tmp_path, examples):
    tokenizer.model_max_length = 1024
    jdump(examples, tmp_path / "data.json")
    dataset = train.SupervisedDataset(str(tmp_path / "data.json"), tokenizer)
    assert_equal_to_reference(dataset, examples, tokenizer)


def test_the_summary_says_what_the_data_lost(tokenizer, tmp_path):
    jdump(EXAMPLES, tmp_path / "data.json")
    summary = train.SupervisedDataset(str(tmp_path / "data.json"), tokenizer).summary()
    assert "5 examples" in summary
    assert "2 reach --model_max_length 128, 1 have no response left" in summary


def test_collator_pads_on_the_right_and_masks_the_padding(tokenizer):
    batch = train.DataCollatorForSupervisedDataset(tokenizer)(
        [
            {"input_ids": torch.tensor([5, 6, 7]), "labels": torch.tensor([-100, 6, 7])},
            {"input_ids": torch.tensor([8]), "labels": torch.tensor([8])},
        ]
    )
    pad = tokenizer.pad_token_id
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, pad, pad]]
    assert batch["labels"].tolist() == [[-100, 6, 7], [8, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("seed", [["--seed", "7"], ["--data_seed", "7"], []], ids=" ".join)
def test_a_step_holds_the_examples_that_random_sampling_draws(seed, tiny_llama, tmp_path):
    jdump([{"instruction": f"Count to {i}.", "output": "1 " * i} for i in range(20)], tmp_path / "data.json")
    tokenizer = train.load_tokenizer(str(tiny_llama), None, 128)[0]
    data = train.make_supervised_data_module(tokenizer, train.DataArguments(data_path=str(tmp_path / "data.json")))
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama)

    def batches(pack_steps: str) -> list:
        batch_flags = ("--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "4")
        args = parse("--use_cpu", "True", *batch_flags, "--model_max_length", "128", "--pack_steps", pack_steps, *seed)
        return list(train.AlpacaTrainer(model, args, processing_class=tokenizer, **data).get_train_dataloader())

    def lengths(micro_batches) -> list[int]:
        return sorted(n for batch in micro_batches for n in batch["attention_mask"].sum(dim=1).tolist())

    plain = batches(pack_steps="False")
    expected = [lengths(plain[i : i + 4]) for i in range(0, len(plain), 4)]
    found = [lengths(step["micro_batches"]) for step in batches(pack_steps="True")]
    assert len(expected) == 3
    assert found == expected


# ---- Special tokens and embeddings ----


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_opt"])
def test_new_embedding_rows_are_the_mean_of_the_old(name, request):
    path = request.getfixturevalue(name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    old_in = model.get_input_embeddings().weight.detach().clone()
    old_out = model.get_output_embeddings().weight.detach().clone()
    train.smart_tokenizer_and_embedding_resize({"pad_token": "[NEW]", "unk_token": "[TWO]"}, tokenizer, model)
    for old, layer in ((old_in, model.get_input_embeddings()), (old_out, model.get_output_embeddings())):
        assert layer.weight.shape[0] == len(tokenizer) == old.shape[0] + 2
        assert torch.equal(layer.weight[:-2], old)
        assert torch.equal(layer.weight[-2:], old.mean(dim=0, keepdim=True).expand(2, -1))
    assert model.config.vocab_size == len(tokenizer)


def test_tied_embeddings_stay_tied(tiny_opt):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_opt)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_opt)
    train.smart_tokenizer_and_embedding_resize({"pad_token": "[NEW]"}, tokenizer, model)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_a_model_with_spare_rows_keeps_them_and_gets_no_more(tiny_llama):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_llama)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama)
    model.resize_token_embeddings(len(tokenizer) + 8, mean_resizing=False)
    old = model.get_input_embeddings().weight.detach().clone()
    num_old = len(tokenizer)
    train.smart_tokenizer_and_embedding_resize({"pad_token": "[PAD]"}, tokenizer, model)
    new = model.get_input_embeddings().weight
    assert new.shape == old.shape
    assert torch.equal(new[num_old], old[:num_old].mean(dim=0))
    assert torch.equal(new[num_old + 1 :], old[num_old + 1 :])


def test_a_tokenizer_longer_than_the_embeddings_gets_rows_though_no_token_is_new(tiny_llama):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_llama)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama)
    old = model.get_output_embeddings().weight.detach().clone()
    tokenizer.add_tokens(["<tool>"])
    train.smart_tokenizer_and_embedding_resize({}, tokenizer, model)
    assert torch.equal(model.get_output_embeddings().weight[-1], old.mean(dim=0))
    tokenizer.add_tokens(["<other>"])
    train.smart_tokenizer_and_embedding_resize({"pad_token": "[PAD]"}, tokenizer, model)
    new = model.get_output_embeddings().weight
    assert len(new) == len(tokenizer) == len(old) + 3
    assert torch.equal(new[-2:], new[:-2].mean(dim=0, keepdim=True).expand(2, -1))


def test_nothing_is_added_where_no_token_is_missing(tiny_opt):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_opt)
    assert train.missing_special_tokens(tokenizer) == {}


def test_missing_tokens_are_added_in_the_original_order(tiny_llama):
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.eos_token = tokenizer.unk_token = None
    assert list(train.missing_special_tokens(tokenizer).items()) == [
        ("pad_token", "[PAD]"),
        ("eos_token", "</s>"),
    ]


# ---- Chat template ----


def render(tokenizer, messages, **options):
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, **options)


@pytest.mark.parametrize("instruction", ["Say hi.", "Use {braces}, 'quotes', \"more\"\nand <html> & ünïcode 🙂"])
def test_a_chat_message_becomes_the_training_prompt(tokenizer, instruction):
    messages = [{"role": "user", "content": instruction}]
    prompt = format_prompt(instruction)
    assert render(tokenizer, messages, tokenize=False) == tokenizer.bos_token + prompt
    assert render(tokenizer, messages)["input_ids"] == tokenizer(prompt).input_ids


def test_a_chat_message_with_an_input_becomes_the_prompt_for_that(tokenizer):
    messages = [{"role": "user", "content": "Add the numbers.\n\n### Input:\n1, 2"}]
    prompt = format_prompt("Add the numbers.", "1, 2")
    assert render(tokenizer, messages, tokenize=False) == tokenizer.bos_token + prompt


def test_a_message_in_parts_is_joined(tokenizer):
    messages = [{"role": "user", "content": [{"type": "text", "text": "Say "}, {"type": "text", "text": "hi."}]}]
    assert render(tokenizer, messages, tokenize=False) == tokenizer.bos_token + format_prompt("Say hi.")


def test_a_conversation_keeps_system_message_and_earlier_turns(tokenizer):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say hi."},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Again."},
    ]
    expected = format_prompt("Be brief.\n\nSay hi.") + "Hi." + tokenizer.eos_token
    expected += "\n\n### Instruction:\nAgain.\n\n### Response:"
    assert render(tokenizer, messages, tokenize=False) == tokenizer.bos_token + expected


# ---- Processes ----


def test_several_gpus_without_a_launcher_are_refused_with_the_line_to_type(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    with pytest.raises(UserError, match=r"torchrun --nproc_per_node=4 train\.py"):
        arguments.check_processes(types.SimpleNamespace(use_cpu=False, n_gpu=4, deepspeed=None))
    arguments.check_processes(types.SimpleNamespace(use_cpu=False, n_gpu=1, deepspeed=None))  # under torchrun


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(UserError, match="--nproc_per_node=2"):
        arguments.check_processes(types.SimpleNamespace(use_cpu=False, n_gpu=1, deepspeed=None))


# ---- Adapters ----


def test_under_adapters_of_qlora_the_linear_layers_are_in_4_bits_and_nothing_else(tiny_llama, tmp_path):
    import bitsandbytes

    tokenizer, num_new_tokens = train.load_tokenizer(str(tiny_llama), None, 128)
    model_args = arguments.ModelArguments(model_name_or_path=str(tiny_llama))
    lora_args = train.LoraArguments(lora_rank=4, load_in_4bit=True)
    config = train.load_config(model_args, None)
    train_args = parse("--use_cpu", "True", "--output_dir", str(tmp_path))
    model = train.load_model(model_args, config, tokenizer, num_new_tokens, lora_args, train_args)
    model = train.adapters.add_adapters(model, lora_args, str(tiny_llama))
    for name, parameter in model.named_parameters():
        in_4_bits = isinstance(parameter, bitsandbytes.nn.Params4bit)
        assert in_4_bits == ("_proj" in name and "lora" not in name), name
        assert parameter.requires_grad == ("lora" in name), name
        assert in_4_bits or parameter.dtype == torch.float32
    rows = model.get_input_embeddings().weight
    assert len(rows) == 401
    torch.testing.assert_close(rows[400], rows[:400].mean(dim=0))


def test_without_bitsandbytes_4_bits_are_refused_before_anything_is_loaded(tiny_llama, monkeypatch):
    monkeypatch.setattr(transformers.utils, "is_bitsandbytes_available", lambda: False)
    config = transformers.AutoConfig.from_pretrained(tiny_llama)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        train.adapters.check(train.LoraArguments(lora_rank=4, load_in_4bit=True), train.skeleton(config), False)


def test_the_names_that_forks_of_the_original_import_are_there():
    names = ("PROMPT_DICT", "IGNORE_INDEX", "SupervisedDataset", "DataCollatorForSupervisedDataset", "ModelArguments")
    names += ("DataArguments", "TrainingArguments", "make_supervised_data_module", "train")
    assert [name for name in (*names, "smart_tokenizer_and_embedding_resize") if not hasattr(train, name)] == []
