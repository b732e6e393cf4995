"""The memory that training takes, as told before it starts: per copy and per share, against what is there."""

import types

import pytest
import torch
import transformers

import train
from alpaca.training import memory


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
    *table, warning = memory.table(7_000_000_000, 7_000_000_000, args).splitlines()
    assert table[0].startswith("7,000.0 million parameters")
    assert table[-1].endswith("126.000 GB  of 80.0 GB available")
    assert warning.startswith("warning: 126.0 GB of gpu memory are needed and 80.0 GB there")
    assert '--fsdp "full_shard auto_wrap"' in warning


def test_a_container_has_the_memory_of_its_limit_not_of_its_host(monkeypatch, tmp_path):
    for name, text in (("memory.max", "3000"), ("memory.current", "2000"), ("memory.stat", "anon 1500\nfile 500\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "Path", lambda path: {"/sys/fs/cgroup": tmp_path}[path])
    assert memory.available(local_world_size=2)["cpu"] == 750
    (tmp_path / "memory.max").write_text("max")
    assert memory.available(local_world_size=2)["cpu"] > 1e6
