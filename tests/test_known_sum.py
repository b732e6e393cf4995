"""The known sum of all values: an old diff of Alpaca-7B is checked by it, and of another model it proves nothing."""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

import weight_diff
from alpaca.weights import known_sum
from tests.helpers.diff_models import fails, load_files, pickle_model, recover


def test_llama_7b_with_a_pad_token_has_the_shapes_that_are_taken_for_alpaca_7b():
    config = LlamaConfig(vocab_size=32001, hidden_size=4096, intermediate_size=11008, tie_word_embeddings=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert model.num_parameters() == known_sum.ALPACA_7B_PARAMETERS
    assert tuple(model.get_input_embeddings().weight.shape) == known_sum.ALPACA_7B_EMBEDDING


def test_the_rotary_buffers_of_32_layers_add_238_7_to_the_sum():
    sums = known_sum.rotary_sums({}, {})
    assert len(sums) == 32
    assert sum(sums.values()) == pytest.approx(32 * (1 - 1e-4) / (1 - 1e-4 ** (1 / 64)), abs=1e-4)


@pytest.fixture
def small_alpaca(llama, tmp_path, monkeypatch):
    """An old diff that is taken for Alpaca-7B: the known shapes and the known sum are those of the small model."""
    diff = pickle_model(llama / "diff", tmp_path / "diff", num_shards=2, buffers=True)
    recover(llama / "base", llama / "diff", tmp_path / "recovered")
    tensors = load_files(tmp_path / "recovered")
    total = sum(tensor.double().sum().item() for tensor in tensors.values())
    monkeypatch.setattr(known_sum, "ALPACA_7B_PARAMETERS", sum(tensor.numel() for tensor in tensors.values()))
    monkeypatch.setattr(known_sum, "ALPACA_7B_EMBEDDING", (401, 64))
    with_buffers = total + sum(known_sum.rotary_sums({}, {}).values())
    monkeypatch.setattr(known_sum, "ALPACA_7B_SUM", with_buffers)
    return {"base": llama / "base", "diff": diff, "total": total, "with_buffers": with_buffers}


def test_an_intact_alpaca_has_the_known_sum_with_the_buffers_that_todays_state_dict_lacks(small_alpaca):
    out = recover(small_alpaca["base"], small_alpaca["diff"], None)
    assert f"sum of all values is {small_alpaca['with_buffers']:.4f} ({small_alpaca['total']:.4f} without" in out


def test_a_damaged_alpaca_has_another_sum_and_is_not_written(small_alpaca, tmp_path):
    index = json.loads((small_alpaca["diff"] / "pytorch_model.bin.index.json").read_text())
    shard = small_alpaca["diff"] / index["weight_map"]["model.norm.weight"]
    tensors = torch.load(shard, weights_only=True)
    tensors["model.norm.weight"][0] += 0.1
    torch.save(tensors, shard)
    arguments = ["recover", "--path_raw", small_alpaca["base"], "--path_diff", small_alpaca["diff"]]
    line = fails(*arguments, "--path_tuned", tmp_path / "out")
    assert "sum of all values" in line
    assert not (tmp_path / "out").exists()
    recover(small_alpaca["base"], small_alpaca["diff"], tmp_path / "out", "--check_integrity_naively", "False")


def test_a_float32_running_total_is_as_good_as_the_sum_in_float64():
    """At 50,000, float32 additions leave hundredths: the original's total of this model is 0.02 off its own sum."""
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(32)]
    sums = dict.fromkeys(names, 0.0) | {"model.embed_tokens.weight": 32768.0}
    sums |= {name: 0.0019 for name in names[:12]}  # less than half a step of 0.0039: each is lost
    sums["lm_head.weight"] = known_sum.ALPACA_7B_SUM - 32768.0
    assert "as it has to be" in known_sum.check_sum({}, sums)
    exact = {"model.embed_tokens.weight": 32768.0, "lm_head.weight": known_sum.ALPACA_7B_SUM - 32768.0 + 0.009}
    assert "as it has to be" in known_sum.check_sum({}, exact)
    with pytest.raises(weight_diff.UserError, match="not Alpaca-7B"):
        known_sum.check_sum({}, exact | {"model.norm.weight": 0.004})


def test_for_another_model_the_sum_is_said_to_prove_nothing(llama, tmp_path):
    shutil.copytree(llama / "diff", tmp_path / "diff", ignore=shutil.ignore_patterns("weight_diff.json"))
    assert "not the published Alpaca-7B" in recover(llama / "base", tmp_path / "diff", None)
