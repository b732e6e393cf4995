"""The flags of train.py: today's and those of 2023, configuration files, what a machine lacks, numbers in range."""

import re
import shlex
import sys
import types

import pytest
import torch

from alpaca.training import arguments
from tests.helpers.commands import ROOT
from tests.helpers.training import parse
from utils import UserError

pytestmark = pytest.mark.usefixtures("environment_as_it_is")


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


@pytest.mark.parametrize(
    ("flags", "num_gpus", "is_sharded", "is_group"),
    [
        (["--bf16", "True"], 1, True, True),
        (["--fsdp", "full_shard auto_wrap"], 1, True, True),
        (["--fsdp", "full_shard auto_wrap"], 0, True, True),
        (["--fsdp", "full_shard auto_wrap"], 2, True, False),  # refused later on, or of a launcher
        (["--bf16", "True"], 2, False, False),
        (["--bf16", "True"], 0, False, False),
        (["--bf16", "True", "--use_cpu", "True"], 1, False, False),
        (["--bf16", "True", "--load_in_4bit", "True"], 1, False, False),
        ([], 1, False, False),
    ],
)
def test_one_gpu_is_a_group_of_its_own_that_trains_in_bfloat16_as_several_do(
    flags, num_gpus, is_sharded, is_group, monkeypatch
):
    groups = []
    monkeypatch.setattr(arguments, "be_a_group_of_one", lambda: groups.append(1))
    monkeypatch.setattr(arguments.torch.cuda, "device_count", lambda: num_gpus)
    monkeypatch.setattr(arguments.TrainingArguments, "_fall_back_to_what_the_hardware_has", lambda self: None)
    monkeypatch.setattr(arguments.transformers.TrainingArguments, "__post_init__", lambda self: None)
    assert bool(parse(*flags).fsdp) is is_sharded
    assert bool(groups) is is_group


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
