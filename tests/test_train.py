"""train.py in parts: labels, batches, new embedding rows, the chat template, flags, the memory table."""

import json
import re
import shlex
import sys
import types

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import train
from alpaca import examples
from alpaca.training import arguments, checkpoints, memory, response_loss
from tests.helpers.commands import ROOT
from utils import UserError, format_prompt, jdump

EXAMPLES = [
    {"instruction": "Name the capital of France.", "input": "", "output": "Paris."},
    {"instruction": "Sort the list.", "input": "pear, apple, fig", "output": "apple, fig, pear"},
    {"instruction": "Répète l'entrée {deux} fois.", "input": "ça\n\n🙂", "output": ": ça\n\n🙂 ça\n\n🙂"},
    {"instruction": "Say nothing.", "input": "", "output": ""},
    {"instruction": "Count to " + " ".join(map(str, range(200))), "input": "", "output": "No."},
]


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


# ---- Flags ----


@pytest.fixture(autouse=True)
def environment_as_it_is(monkeypatch):
    monkeypatch.setattr(arguments, "be_a_group_of_one", lambda: None)


def parse(*flags):
    return arguments.parse_arguments(["--data_path", "x.json", "--output_dir", "out", *flags])[-1]


def test_without_deepspeed_its_flag_alone_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # as if it were not installed
    with pytest.raises(UserError, match="--deepspeed needs the package of that name: pip install deepspeed"):
        parse("--deepspeed", "./configs/default_offload_opt_param.json")
    assert parse().deepspeed is None


def test_flags_of_2023_mean_what_they_meant():
    args = parse(
        *("--evaluation_strategy", "no", "--warmup_ratio", "0.03", "--group_by_length", "True", "--no_cuda", "True")
    )
    assert args.eval_strategy == "no"
    assert args.get_warmup_steps(1000) == 30
    assert args.train_sampling_strategy == "group_by_length"
    assert args.use_cpu
    assert (args.optim, args.model_max_length, args.cache_dir) == ("adamw_torch", 512, None)


def test_fsdp_flags_of_2023_become_an_fsdp_config(monkeypatch):
    monkeypatch.setattr(arguments.TrainingArguments, "_fall_back_to_what_the_hardware_has", lambda self: None)
    args = parse(
        *("--use_cpu", "True", "--fsdp", "full_shard auto_wrap offload"),
        *("--fsdp_transformer_layer_cls_to_wrap", "LlamaDecoderLayer", "--fsdp_config", '{"min_num_params": 0}'),
    )
    assert args.fsdp_plugin_args["transformer_cls_names_to_wrap"] == "LlamaDecoderLayer"
    assert args.fsdp_plugin_args["cpu_offload"] is True
    assert args.fsdp_plugin_args["state_dict_type"] == "FULL_STATE_DICT"


@pytest.mark.parametrize(("world_size", "is_resharded"), [("1", False), ("4", True)])
def test_full_shard_gives_weights_back_after_the_forward_pass_where_there_is_somebody_to_share_with(
    world_size, is_resharded, monkeypatch
):
    monkeypatch.setenv("WORLD_SIZE", world_size)
    args = types.SimpleNamespace(
        fsdp="full_shard auto_wrap", fsdp_config=None, fsdp_transformer_layer_cls_to_wrap="LlamaDecoderLayer"
    )
    config = arguments.TrainingArguments._fsdp_config_of_2023_flags(args)
    assert config["reshard_after_forward"] is is_resharded
    assert config["cpu_ram_efficient_loading"] is is_resharded


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_what_the_hardware_lacks_is_left_out_with_a_warning(capsys):
    args = parse("--bf16", "True", "--tf32", "True")
    assert (args.bf16, args.tf32) == (False, None)
    assert capsys.readouterr().err.count("warning:") == 2


def test_the_command_line_wins_over_the_config_file(tmp_path):
    (tmp_path / "a.yaml").write_text("learning_rate: 1e-5\nnum_train_epochs: 5\nevaluation_strategy: 'no'\n")
    args = parse("--config", str(tmp_path / "a.yaml"), "--learning_rate", "3e-4")
    assert (args.learning_rate, args.num_train_epochs) == (3e-4, 5)


@pytest.mark.parametrize(
    ("name", "learning_rate", "epochs"), [("llama-7b", 2e-5, 3), ("llama-13b", 1e-5, 5), ("opt-6.7b", 2e-5, 3)]
)
def test_the_shipped_configurations_hold_the_published_hyperparameters(name, learning_rate, epochs):
    args = parse("--config", f"configs/{name}.yaml")
    assert (args.learning_rate, args.num_train_epochs, args.weight_decay) == (learning_rate, epochs, 0)
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps * 4 == 128
    assert (args.model_max_length, args.get_warmup_steps(100), args.lr_scheduler_type) == (512, 3, "cosine")


def test_the_command_lines_of_the_readme_are_accepted():
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^torchrun .*train\.py +(--.*)$", text, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        args = parse(*shlex.split(command.replace("<llama checkpoint and tokenizer>", "llama").replace("<out>", "out")))
        assert (args.learning_rate, args.num_train_epochs, args.save_steps) == (2e-5, 3, 2000)
        assert args.per_device_train_batch_size * args.gradient_accumulation_steps * 4 == 128


# ---- Data files ----


def test_json_lines_parquet_and_a_list_hold_the_same_examples(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{**e, "most_similar_instructions": {"a": 0.5}, "avg_similarity_score": 0.1} for e in EXAMPLES]
    jdump(rows, tmp_path / "a.json")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.json", "a.jsonl", "a.parquet"):
        assert examples.load_examples(str(tmp_path / name)) == EXAMPLES


def test_a_missing_input_is_an_empty_one(tmp_path):
    jdump([{"instruction": "Say hi.", "output": "Hi."}], tmp_path / "a.json")
    assert examples.load_examples(str(tmp_path / "a.json"))[0]["input"] == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [(b'{"instruction": "a", "output": "b"}\n\xff\n', "line 2"), (b'"text"', "str, not a list"), (b"PAR1x", "Parquet")],
)
def test_a_damaged_file_is_one_clear_line(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        examples.load_examples(str(tmp_path / "a.json"))


# ---- Memory table ----


def arguments_on_a_gpu(**flags):
    args = types.SimpleNamespace(
        device=torch.device("cuda"), optim=types.SimpleNamespace(value="adamw_torch"), bf16=True, fp16=False,
        fsdp=None, fsdp_config=None, deepspeed=None, per_device_train_batch_size=4, gradient_accumulation_steps=8,
        world_size=1, model_max_length=512, pack_steps=True, gradient_checkpointing=False,
        activation_checkpointing=False, accelerator_config=types.SimpleNamespace(gradient_accumulation_kwargs=None),
    )  # fmt: skip
    vars(args).update(flags)
    return args


def memory_of(num_parameters, world_size, **flags):
    rows = memory.estimate(num_parameters, num_parameters, world_size, arguments_on_a_gpu(**flags))
    return {place: sum(row.num_bytes for row in rows if row.place == place) for place in ("gpu", "cpu")}


def test_seven_billion_parameters_take_112_gb_a_copy_in_16_bits_and_a_share_of_it_when_sharded():
    config = {"reshard_after_forward": True}
    assert memory_of(7e9, 1) == {"gpu": 112e9 + 14e9, "cpu": 0}
    assert memory_of(7e9, 1, bf16=False) == {"gpu": 112e9, "cpu": 0}
    sharded = {"fsdp": True, "fsdp_config": config}
    assert memory_of(7e9, 4, **sharded) == {"gpu": 7e9 + 28e9 + 14e9, "cpu": 0}  # gradients whole until they are summed
    each_micro_batch = types.SimpleNamespace(gradient_accumulation_kwargs={"sync_each_batch": True})
    assert memory_of(7e9, 4, **sharded, accelerator_config=each_micro_batch) == {"gpu": 28e9, "cpu": 0}
    assert memory_of(7e9, 4, fsdp=True, fsdp_config={**config, "cpu_offload": True}) == {"gpu": 0, "cpu": 28e9}


@pytest.mark.parametrize(
    ("hidden_size", "num_layers", "intermediate_size", "measured"),
    [(4096, 32, 11008, 134.0e9), (2048, 16, 5504, 20.7e9)],
)
def test_memory_is_told_within_a_twentieth_of_what_was_measured_on_an_h200(
    hidden_size, num_layers, intermediate_size, measured
):
    config = transformers.LlamaConfig(
        vocab_size=32001, hidden_size=hidden_size, intermediate_size=intermediate_size, num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // 128,
    )  # fmt: skip
    num_parameters = sum(parameter.numel() for parameter in train.skeleton(config).parameters())
    args = arguments_on_a_gpu(fsdp=True, fsdp_config={"reshard_after_forward": False})
    rows = memory.estimate(num_parameters, num_parameters, 1, args) + memory.activations(config, args)
    assert sum(row.num_bytes for row in rows) == pytest.approx(measured, rel=0.05)


def test_deepspeed_offload_keeps_everything_in_cpu_memory():
    values = {"zero_optimization.stage": 3, "zero_optimization.offload_optimizer.device": "cpu"}
    values["zero_optimization.offload_param.device"] = "cpu"
    config = types.SimpleNamespace(get_value=lambda key, default=None: values.get(key, default))
    assert memory_of(7e9, 4, deepspeed=True, hf_deepspeed_config=config) == {"gpu": 0, "cpu": 28e9}


def test_too_little_memory_is_said_with_the_flag_to_try(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda local_world_size: {"cpu": 64e9, "gpu": 80e9})
    args = arguments_on_a_gpu()
    table, warning = memory.table(7_000_000_000, 7_000_000_000, 1, args)
    assert "7,000.0 million parameters" in table
    assert "126.000 GB  of 80.0 GB available" in table
    assert "126.0 GB of gpu memory are needed and 80.0 GB there" in warning
    assert '--fsdp "full_shard auto_wrap"' in warning


def test_a_container_has_the_memory_of_its_limit_not_of_its_host(monkeypatch, tmp_path):
    for name, text in (("memory.max", "3000"), ("memory.current", "2000"), ("memory.stat", "anon 1500\nfile 500\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "Path", lambda path: {"/sys/fs/cgroup": tmp_path}[path])
    assert memory.available(local_world_size=2)["cpu"] == 750
    (tmp_path / "memory.max").write_text("max")
    assert memory.available(local_world_size=2)["cpu"] > 1e6


# ---- Checkpoints ----


@pytest.fixture
def checkpoint(tmp_path):
    unfinished = tmp_path / "unfinished" / "checkpoint-2"
    (unfinished / "global_step2").mkdir(parents=True)
    (unfinished / "model.safetensors").write_bytes(b"weights")
    (unfinished / "global_step2" / "optim.pt").write_bytes(b"moments")
    checkpoints.complete(unfinished, tmp_path / "checkpoint-2")
    return tmp_path / "checkpoint-2"


def test_a_complete_checkpoint_has_its_name_and_nothing_is_left_over(checkpoint):
    assert checkpoints.what_is_missing(checkpoint) is None
    assert list((checkpoint.parent / "unfinished").iterdir()) == []


@pytest.mark.parametrize("name", ["model.safetensors", "global_step2/optim.pt", checkpoints.FILE_LIST])
@pytest.mark.parametrize("damage", ["cut off", "removed"])
def test_a_checkpoint_with_a_file_cut_off_or_removed_is_not_whole(checkpoint, name, damage):
    path = checkpoint / name
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert checkpoints.what_is_missing(checkpoint)
    messages = []
    assert checkpoints.checkpoint_to_resume("True", str(checkpoint.parent), messages.append) is None
    assert "checkpoint-2 is not whole" in messages[0]
    with pytest.raises(UserError, match="not a whole checkpoint"):
        checkpoints.checkpoint_to_resume(str(checkpoint), str(checkpoint.parent))


def test_the_newest_whole_checkpoint_is_taken(checkpoint):
    for step in (10, 9):
        (checkpoint.parent / f"checkpoint-{step}").mkdir()
    assert checkpoints.checkpoint_to_resume("True", str(checkpoint.parent), lambda text: None) == str(checkpoint)


def test_without_the_flag_an_earlier_run_is_pointed_out(checkpoint):
    messages = []
    assert checkpoints.checkpoint_to_resume(None, str(checkpoint.parent), messages.append) is None
    assert "checkpoint-2 of an earlier run" in messages[0]


def test_a_step_that_is_trained_again_replaces_its_checkpoint(checkpoint):
    again = checkpoint.parent / "unfinished" / "checkpoint-2"
    again.mkdir()
    (again / "model.safetensors").write_bytes(b"other")
    checkpoints.complete(again, checkpoint)
    assert (checkpoint / "model.safetensors").read_bytes() == b"other"
    assert not (checkpoint / "global_step2").exists()
    assert checkpoints.what_is_missing(checkpoint) is None


def test_a_start_empties_what_a_killed_run_left_unfinished(tiny_opt, tmp_path):
    jdump([{"instruction": f"Say {i}.", "output": "1"} for i in range(4)], tmp_path / "data.json")
    out = tmp_path / "out"
    for name in ("checkpoint-1", "checkpoint-1.replaced", "model"):
        (out / "unfinished" / name).mkdir(parents=True)
        (out / "unfinished" / name / "left_over.bin").write_bytes(b"x")
    (out / "checkpoint-1").mkdir()
    tokenizer = train.load_tokenizer(str(tiny_opt), None, 128)[0]
    data = train.make_supervised_data_module(tokenizer, train.DataArguments(data_path=str(tmp_path / "data.json")))
    args = parse("--use_cpu", "True", "--max_steps", "1", "--save_steps", "1", "--output_dir", str(out))
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_opt)
    trainer = train.AlpacaTrainer(model, args, processing_class=tokenizer, **data)
    trainer.train()
    trainer.save_final_model()
    assert checkpoints.what_is_missing(out / "checkpoint-1") is None
    assert list(out.rglob("left_over.bin")) == []
    assert (out / "model.safetensors").is_file()


def test_a_new_model_takes_the_place_of_an_earlier_ones_files_and_of_no_others(tmp_path):
    earlier = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    others = ["reward_model.safetensors", "model_of_mine.safetensors", "adapter_model.safetensors"]
    for name in [*earlier, *others, "config.json"]:
        (tmp_path / name).write_text("old")
    unfinished = tmp_path / "unfinished" / "model"
    unfinished.mkdir(parents=True)
    for name in ("model.safetensors", "config.json"):
        (unfinished / name).write_text("new")
    checkpoints.move_model(unfinished, tmp_path)
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {"model.safetensors": "new", "config.json": "new", **dict.fromkeys(others, "old")}


def test_a_full_model_is_not_written_beside_an_adapter_that_would_be_loaded_with_it(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    checkpoints.check_output_dir(str(tmp_path), train.LoraArguments(lora_rank=4))
    with pytest.raises(UserError, match="holds an adapter"):
        checkpoints.check_output_dir(str(tmp_path), train.LoraArguments())


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


# ---- The loss on response tokens only ----


def tiny_model(model_type):
    """A random two-layer model of any type, with dropout off."""
    config = transformers.AutoConfig.for_model(model_type)
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "ffn_dim": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "word_embed_proj_dim": 32}
    for name, value in sizes.items():
        if hasattr(config, name):
            setattr(config, name, value)
    config.pad_token_id = config.eos_token_id = config.bos_token_id = 1
    config.dropout = config.hidden_dropout = config.attention_dropout = 0.0
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)


@pytest.mark.parametrize("model_type", response_loss.MODEL_TYPES)
@pytest.mark.parametrize("chunk_logits", [2**26, 3 * 50, 1], ids=["one chunk", "3 tokens", "1 token"])
def test_loss_and_gradients_equal_the_models_own(model_type, chunk_logits, monkeypatch):
    monkeypatch.setattr(response_loss, "CHUNK_LOGITS", chunk_logits)
    input_ids = torch.randint(2, 50, (3, 9), generator=torch.Generator().manual_seed(1))
    attention_mask = torch.arange(9) < torch.tensor([[9], [1], [7]])  # padded on the right
    labels = input_ids.masked_fill(~attention_mask, -100)
    labels[0, :4] = labels[1, :] = labels[2, 2:5] = -100
    losses, gradients = [], []
    for fast in (False, True):
        model = tiny_model(model_type).train()
        assert not fast or response_loss.compute_loss_on_response_only(model)
        batch = {"input_ids": input_ids, "attention_mask": attention_mask.long(), "labels": labels}
        loss = model(**batch, num_items_in_batch=torch.tensor(7)).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    for slow, fast in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-6)


def test_without_a_count_the_loss_is_the_mean_over_response_tokens():
    model = tiny_model("llama").train()
    input_ids = torch.arange(2, 12).reshape(2, 5)
    labels = torch.where(input_ids > 4, input_ids, -100)
    expected = model(input_ids=input_ids, labels=labels).loss.item()
    response_loss.compute_loss_on_response_only(model)
    assert model(input_ids=input_ids, labels=labels).loss.item() == pytest.approx(expected, rel=1e-6)


def test_inference_and_evaluation_are_as_before():
    model = tiny_model("llama").eval()
    input_ids = torch.arange(2, 12).reshape(2, 5)
    padded_on_the_left = {"input_ids": input_ids, "attention_mask": torch.tensor([[0, 0, 1, 1, 1], [1] * 5])}
    before = model(**padded_on_the_left, labels=input_ids)
    response_loss.compute_loss_on_response_only(model)
    after = model(**padded_on_the_left, labels=input_ids)
    assert torch.equal(before.logits, after.logits)
    assert before.loss == after.loss
    assert torch.equal(model(**padded_on_the_left).logits, before.logits)


def test_training_takes_the_attention_kernel_without_a_mask(monkeypatch):
    calls = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def spy(*args, attn_mask=None, is_causal=False, **kwargs):
        calls.append((attn_mask is None, is_causal))
        return attention(*args, attn_mask=attn_mask, is_causal=is_causal, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    model = tiny_model("llama").train()
    response_loss.compute_loss_on_response_only(model)
    input_ids = torch.arange(2, 12).reshape(2, 5)
    model(input_ids=input_ids, attention_mask=torch.tensor([[1, 1, 1, 0, 0], [1] * 5]), labels=input_ids)
    assert calls == [(True, True)] * model.config.num_hidden_layers


def test_an_unknown_model_keeps_its_own_loss():
    model = tiny_model("cohere")
    assert not response_loss.compute_loss_on_response_only(model)
    assert "forward" not in vars(model.get_output_embeddings())


def test_the_names_that_forks_of_the_original_import_are_there():
    names = ("PROMPT_DICT", "IGNORE_INDEX", "SupervisedDataset", "DataCollatorForSupervisedDataset", "ModelArguments")
    names += ("DataArguments", "TrainingArguments", "make_supervised_data_module", "train")
    assert [name for name in (*names, "smart_tokenizer_and_embedding_resize") if not hasattr(train, name)] == []


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("weight_decay", "nan"),
        ("learning_rate", "inf"),
        ("per_device_train_batch_size", "0"),
        ("gradient_accumulation_steps", "-1"),
        ("max_steps", "0"),
        ("max_steps", "-2"),
        ("num_train_epochs", "0"),
        ("model_max_length", "-5"),
        ("seed", "-1"),
        ("data_seed", str(2**32)),
        ("lora_dropout", "1"),
        ("lora_alpha", "nan"),
        ("max_examples", "0"),
        ("lora_rank", "-1"),
    ],
)
def test_a_number_out_of_its_range_is_refused_before_anything_is_loaded(flag, value):
    with pytest.raises(UserError, match=rf"--{flag} {value}\S*: takes a number from"):
        arguments.parse_arguments(["--data_path", "data.json", f"--{flag}={value}"])
