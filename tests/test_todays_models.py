"""Models of today, as tiny random ones: text and vision checkpoints, hybrid caches, tokenizers, chat templates."""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import json
import shutil
import sys

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, trainers
from tokenizers.processors import TemplateProcessing

import train
from alpaca.inference.local import (
    Decoding,
    LocalModel,
    decode_batch,
    find_prompt_form,
    generate,
    load_model,
    max_length,
    num_rows_of,
)
from alpaca.training.arguments import LoraArguments
from configs import tiny_models
from tests.helpers import forks
from tests.helpers.commands import assert_fails_in_one_line
from utils import UserError, format_prompt, jdump, jload

DIMS = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.4,
}  # fmt: skip
DELTA_NET = {
    "head_dim": 16, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
CONFIGS = {
    "qwen3_5_text": {**DIMS, **DELTA_NET},
    "qwen3_next": {**DIMS, **DELTA_NET, **EXPERTS, "shared_expert_intermediate_size": 32},
    "lfm2": {**DIMS, "layer_types": ["conv", "full_attention"]},
    "gemma3_text": {
        **DIMS, "head_dim": 16, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16,
        "tie_word_embeddings": False,
    },
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "initializer_range": 0.4},
    "falcon_h1": {**DIMS, "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16},
    "minimax": {**DIMS, "head_dim": 16, "layer_types": ["linear_attention", "full_attention"], "num_local_experts": 2},
    "recurrent_gemma": {
        **DIMS, "head_dim": 8, "lru_width": 32, "attention_window_size": 32, "block_types": ["recurrent", "attention"],
        "tie_word_embeddings": False, "pad_token_id": None,
    },
    "rwkv": {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2, "context_length": 1024},
}  # fmt: skip


def random_model(model_type: str, vocab_size: int):
    config = transformers.AutoConfig.for_model(model_type, vocab_size=vocab_size, **CONFIGS[model_type])
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize("model_type", CONFIGS)
def test_responses_that_end_early_leave_a_batch_whatever_the_cache(model_type):
    tokenizer = tiny_models.llama_tokenizer()
    model = random_model(model_type, len(tokenizer))
    prompts = {n: "Say why. " * n for n in range(1, 5)}
    free = LocalModel("tiny", model, tokenizer, frozenset(), 1024)
    ends = frozenset([[token for _, token, _ in decode_batch(free, {0: free.encode(prompts[2])}, Decoding(3))][-1]])
    local = LocalModel("tiny", model, tokenizer, ends, 1024)
    results = {i: (text, why) for i, text, why in generate(local, prompts, Decoding(12))}
    assert results[2][1] == "stop"  # after three tokens at most
    for i, prompt in prompts.items():
        ids = torch.tensor([local.encode(prompt)])
        output = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=list(ends), pad_token_id=0)
        response = [token for token in output[0, ids.shape[1] :].tolist() if token not in ends]
        assert results[i][0] == local.decode(response).strip()


# ---- Training ----


def save_text_and_vision(path):
    """A checkpoint as Qwen3.5's: its configuration has parts for text and for vision."""
    tokenizer = tiny_models.byte_level_tokenizer(["<|end|>", "<|image|>", "<|video|>", "<|start|>", "<|stop|>"])
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(path)
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
    config = transformers.Qwen3_5Config(
        text_config={**DIMS, **DELTA_NET, "vocab_size": 400, "eos_token_id": 0, "tie_word_embeddings": True},
        vision_config={**vision, "patch_size": 4, "num_position_embeddings": 16, "deepstack_visual_indexes": []},
        **{"image_token_id": 1, "video_token_id": 2, "vision_start_token_id": 3, "vision_end_token_id": 4},
        tie_word_embeddings=True,
    )
    transformers.Qwen3_5ForConditionalGeneration(config).save_pretrained(path)
    return path


def run_train(monkeypatch, base, data_path, output_dir, *more):
    arguments = ["--model_name_or_path", base, "--data_path", data_path, "--output_dir", output_dir, *more]
    arguments += ["--max_steps", "1", "--save_strategy", "no", "--report_to", "none"]
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
    train.main()


@pytest.fixture
def data_path(tmp_path):
    jdump([{"instruction": "What is 12 times 12?", "input": "", "output": "144"}] * 2, tmp_path / "data.json")
    return tmp_path / "data.json"


def test_a_text_and_vision_checkpoint_is_trained_as_automodel_loads_it(tmp_path, data_path, monkeypatch):
    base = save_text_and_vision(tmp_path / "base")
    run_train(monkeypatch, base, data_path, tmp_path / "out")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(base)
    tuned = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(tuned) is type(loaded)
    assert tuned.state_dict().keys() == loaded.state_dict().keys()
    assert len(tuned.get_input_embeddings().weight) == 401  # [PAD]


def test_every_configuration_of_text_and_more_gives_the_model_of_its_text():
    mapping = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    composite = [config for config in mapping if mapping[config].config_class is config.sub_configs.get("text_config")]
    assert len(composite) >= 5
    for config_class in composite:
        with pytest.MonkeyPatch.context() as patch:  # the model itself would be as large as the real one
            patch.setattr(mapping[config_class], "_from_config", lambda config, **_: config)
            assert type(train.skeleton(config_class())) is config_class.sub_configs["text_config"]


def test_an_example_beyond_a_table_of_positions_is_one_line_before_weights_are_loaded(
    tiny_opt, tiny_llama, tmp_path, capsys
):
    jdump([{"instruction": "Repeat.", "input": "", "output": "pear apple " * 600}], tmp_path / "long.json")
    long = ("--data_path", tmp_path / "long.json", "--output_dir", tmp_path / "out", "--model_max_length", "2048")
    result = forks.run("train.py", "--model_name_or_path", tiny_opt, *long)
    assert_fails_in_one_line(result, "--model_max_length 2048", "1,024 positions", "Set --model_max_length 1024")
    assert "Loading weights" not in result.stderr
    config = transformers.AutoConfig.from_pretrained(tiny_llama)
    tokenizer = train.load_tokenizer(str(tiny_llama), None, 2048)[0]
    train.check_positions(config, train.SupervisedDataset(str(tmp_path / "long.json"), tokenizer))
    assert "the model was made for 1,024" in capsys.readouterr().err  # rotary positions have no end


def test_an_example_to_be_held_out_may_not_be_beyond_the_table_of_positions_either(tiny_opt, data_path, tmp_path):
    config = transformers.AutoConfig.from_pretrained(tiny_opt)
    tokenizer = train.load_tokenizer(str(tiny_opt), None, 2048)[0]
    jdump([{"instruction": "Repeat.", "input": "", "output": "pear apple " * 600}], tmp_path / "long.json")
    short, long = (train.SupervisedDataset(str(path), tokenizer) for path in (data_path, tmp_path / "long.json"))
    train.check_positions(config, short, None)
    with pytest.raises(UserError, match="--model_max_length 2048: the model has 1,024 positions"):
        train.check_positions(config, short, long)


def test_a_quantized_checkpoint_is_refused_but_for_adapters():
    config = transformers.LlamaConfig(name_or_path="tiny", quantization_config={"quant_method": "awq", "bits": 4})
    with pytest.raises(UserError, match=r"tiny: its weights are quantized \(awq\).*--lora_rank 8"):
        train.adapters.check_quantization(LoraArguments(), config)
    train.adapters.check_quantization(LoraArguments(lora_rank=8), config)
    with pytest.raises(UserError, match="leave --load_in_4bit out"):
        train.adapters.check_quantization(LoraArguments(lora_rank=8, load_in_4bit=True), config)


# ---- Tokenizers ----


def fast(special_tokens: list[str], **names) -> transformers.PreTrainedTokenizerFast:
    backend = tiny_models.byte_level_tokenizer(special_tokens)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, **names)


def test_no_token_is_added_that_nothing_uses():
    llama_3 = fast(["<|begin_of_text|>", "<|end_of_text|>"], bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")
    assert train.missing_special_tokens(llama_3) == {"pad_token": "[PAD]"}
    qwen = fast(["<|endoftext|>"], eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    assert train.missing_special_tokens(qwen) == {}


def test_unk_is_added_where_a_text_can_hold_what_cannot_be_encoded():
    backend = Tokenizer(models.BPE())
    backend.train_from_iterator(["name three"], trainers.BpeTrainer(special_tokens=["</s>"], show_progress=False))
    letters = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    assert train.missing_special_tokens(letters) == {"pad_token": "[PAD]", "unk_token": "<unk>"}


def test_a_tokenizer_that_ends_every_text_by_itself_leaves_each_label_once(data_path):
    backend = tiny_models.byte_level_tokenizer(["<unk>", "<s>", "</s>", "<pad>"])
    backend.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, **names)
    for item in train.SupervisedDataset(str(data_path), tokenizer):
        labels = item["labels"][item["labels"] != -100]
        assert tokenizer.convert_ids_to_tokens(labels) == ["1", "44", "</s>"]  # "144"


def test_rows_are_counted_by_the_largest_id_where_ids_have_gaps(tiny_llama, tmp_path):
    """As in tokenizers whose added tokens do not follow the vocabulary."""
    shutil.copytree(tiny_llama, tmp_path / "model")
    tokenizer = json.loads((tmp_path / "model" / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["far"] = 420
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(tokenizer))
    tokenizer, num_new_tokens = train.load_tokenizer(str(tmp_path / "model"), None, 128)
    assert len(tokenizer) < num_rows_of(tokenizer)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama)
    old = model.get_input_embeddings().weight.detach().clone()
    train.resize_embeddings(model, num_rows_of(tokenizer), num_new_tokens)
    weight = model.get_input_embeddings().weight
    assert len(weight) == max(tokenizer.get_vocab().values()) + 1
    assert torch.equal(weight[len(old) :], old.mean(dim=0, keepdim=True).expand(len(weight) - len(old), -1))


# ---- Prompts ----

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def chat_model(tiny_llama, tmp_path_factory):
    """A model with a chat template of its own."""
    path = shutil.copytree(tiny_llama, tmp_path_factory.mktemp("chat") / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(path)
    return path


def test_a_model_with_a_template_of_its_own_is_asked_with_it(chat_model, tiny_llama, capsys):
    local = load_model(str(chat_model))
    assert "the model's own chat template" in capsys.readouterr().err
    assert local.prompt("Add.", "1 2") == "<s>[user]Add.\n\n### Input:\n1 2</s>[assistant]"
    ids = local.encode(local.prompt("Add."))
    assert ids.count(1) == 1  # one <s>: that of the template
    assert ids == local.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Add."}], add_generation_prompt=True, return_dict=False
    )
    assert load_model(str(chat_model), prompt="alpaca").prompt("Add.") == format_prompt("Add.")
    assert "Alpaca's" in capsys.readouterr().err
    assert load_model(str(tiny_llama)).prompt("Add.") == format_prompt("Add.")


def test_the_template_that_train_py_saves_is_the_alpaca_prompt(tiny_llama):
    tokenizer = train.load_tokenizer(str(tiny_llama), None, 128)[0]
    assert find_prompt_form(tokenizer, "auto") == "alpaca"
    assert find_prompt_form(tokenizer, "chat") == "chat"
    tokenizer.chat_template = {"default": CHAT_TEMPLATE, "tools": "x"}
    assert find_prompt_form(tokenizer, "auto") == "chat"
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="this model has no chat template"):
        find_prompt_form(tokenizer, "chat")
    with pytest.raises(UserError, match="takes auto, alpaca or chat"):
        find_prompt_form(tokenizer, "llama")


def test_predictions_keep_their_prompt_and_are_never_mixed(chat_model, tmp_path, capsys):
    import compare

    (tmp_path / "eval.jsonl").write_text('{"instruction": "Say hi."}\n{"instruction": "Say why."}\n')
    options = {"model_name_or_path": str(chat_model), "max_new_tokens": 3}
    paths = {"instructions_path": str(tmp_path / "eval.jsonl"), "output_path": str(tmp_path / "a.json")}
    compare.generate(**paths, **options)
    assert {entry["prompt"] for entry in jload(tmp_path / "a.json")} == {"chat"}
    with pytest.raises(UserError, match="holds something else"):
        compare.generate(**paths, **options, prompt="alpaca")
    (tmp_path / "a.json").rename(tmp_path / "complete.json")
    settings = {"model": str(chat_model), "instructions": compare.digest(["Say hi.", "Say why."]), "max_new_tokens": 3}
    settings |= {"temperature": 0.0, "top_p": 1.0, "seed": None, "prompt": "chat", "api": "auto"}
    rows = [{"settings": settings}, {"index": 0, "output": "Hi.", "finish_reason": "stop"}]
    (tmp_path / "a.json.partial").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="made with another prompt"):
        compare.generate(**paths, **options, prompt="alpaca")
    compare.generate(**paths, **options)
    assert jload(tmp_path / "a.json")[0]["output"] == "Hi."


def test_a_models_positions_are_those_of_its_text():
    assert max_length(transformers.GPT2Config(n_positions=64)) == 64
    assert max_length(transformers.MambaConfig()) == 2048
