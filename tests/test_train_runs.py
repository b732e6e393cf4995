"""train.py as users run it: the four command lines with two ranks, adapters, kill and resume, SIGTERM.

Every case starts python or torchrun on a two-layer model; together they take minutes on two cores.
"""

import json
import re
import shutil
import signal
import sys
import time

import pytest
import torch

from alpaca.inference.local import load_model
from tests.helpers import forks
from tests.helpers.commands import assert_fails_in_one_line, free_port
from tests.helpers.training import FSDP, kill, ranks, run, start

RECIPE = (
    "--bf16 True --per_device_train_batch_size 4 --per_device_eval_batch_size 4 --gradient_accumulation_steps 2 "
    "--evaluation_strategy no --save_strategy steps --save_steps 2000 --save_total_limit 1 --learning_rate 2e-3 "
    "--weight_decay 0. --warmup_ratio 0.03 --lr_scheduler_type cosine --logging_steps 1 --tf32 True"
).split()


def torchrun(*arguments, num_processes=2):
    """The command `torchrun --nproc_per_node=2 train.py ...` on a free port."""
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={num_processes}"]
    return [*launcher, f"--master_port={free_port()}", "train.py", *map(str, arguments)]


def python(*arguments):
    return forks.python("train.py", *arguments)


def losses(output_dir):
    log = json.loads((output_dir / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in log if "loss" in entry]


def weights(output_dir):
    return b"".join(path.read_bytes() for path in sorted(output_dir.glob("model*.safetensors")))


def tensor_of(output_dir, name):
    from safetensors import safe_open

    with safe_open(output_dir / "model.safetensors", framework="pt") as f:
        return f.get_tensor(name)


def assert_loads_and_generates(output_dir, num_rows):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(output_dir)
    model = transformers.AutoModelForCausalLM.from_pretrained(output_dir)
    assert model.get_input_embeddings().weight.shape[0] == num_rows
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.dtype == torch.float32
    message = [{"role": "user", "content": "Say hi."}]
    inputs = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=4, min_new_tokens=4).shape[1] == inputs["input_ids"].shape[1] + 4


# ---- The four command lines ----

COMMAND_LINES = {
    "LLaMA": ("tiny_llama", [*FSDP, "LlamaDecoderLayer"]),
    "OPT": ("tiny_opt", [*FSDP, "OPTDecoderLayer"]),
    "offload": ("tiny_llama", ["--fsdp", "full_shard auto_wrap offload", *FSDP[2:], "LlamaDecoderLayer"]),
    "DeepSpeed": ("tiny_llama", ["--deepspeed", "./configs/default_offload_opt_param.json"]),
    "DeepSpeed OPT": ("tiny_opt", ["--deepspeed", "./configs/default_offload_opt_param.json"]),
}
COMPILES = pytest.mark.slow  # on a new machine DeepSpeed compiles its Adam for minutes


@pytest.mark.parametrize("name", [pytest.param(n, marks=[COMPILES] * n.startswith("DeepSpeed")) for n in COMMAND_LINES])
def test_the_command_lines_of_2023_run_with_two_ranks(name, request, data_path, tmp_path):
    model, flags = COMMAND_LINES[name]
    model_path = request.getfixturevalue(model)
    recipe = ["--model_name_or_path", model_path, "--data_path", data_path, "--output_dir", tmp_path / "out", *RECIPE]
    launch = ranks if name in ("OPT", "offload") else torchrun  # what torchrun adds is the same for all
    stderr = run(launch(*recipe, "--num_train_epochs", 2, *flags))
    values = losses(tmp_path / "out")
    assert len(values) == 12
    assert sum(values[-3:]) / 3 < sum(values[:3]) / 3 - 0.2
    # 400 tokens and [PAD], which LLaMA lacks and OPT has
    assert_loads_and_generates(tmp_path / "out", 401 if model == "tiny_llama" else 400)
    if model == "tiny_llama":  # the row of [PAD] is not trained, and so still what it was set to
        before, after = (tensor_of(folder, "model.embed_tokens.weight") for folder in (model_path, tmp_path / "out"))
        torch.testing.assert_close(after[400], before.mean(dim=0), rtol=0, atol=1e-7)
    assert stderr.count("million parameters") == 1, "rank 0 alone speaks"
    assert len(re.findall(r"step \d+/12 +epoch", stderr)) == 12
    assert "tokens/s" in stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "trainer_state.json", "checkpoint-12"} <= names
    assert "unfinished" not in names


def test_sharded_training_really_shards(tiny_llama, data_path, tmp_path):
    script = tmp_path / "probe.py"
    script.write_text(
        "import sys; sys.path.insert(0, '.'); import train\n"
        "save = train.AlpacaTrainer.save_final_model\n"
        "def probe(self):\n"
        "    shapes = [tuple(p.to_local().shape) for p in self.model.parameters()]\n"
        "    sys.stderr.write(f'rank {self.args.process_index} first shard {shapes[0]}\\n')\n"  # in one piece
        "    save(self)\n"
        "train.AlpacaTrainer.save_final_model = probe\n"
        "train.main()\n"
    )
    flags = ["--model_name_or_path", tiny_llama, "--data_path", data_path, "--output_dir", tmp_path / "out", *RECIPE]
    stderr = run(forks.ranks(script, *flags, "--max_steps", 1, *FSDP, "LlamaDecoderLayer"))
    assert "rank 0 first shard (201, 64)" in stderr
    assert "rank 1 first shard (200, 64)" in stderr


def test_one_process_without_the_speed_ups_and_two_ranks_with_them_train_alike(tiny_llama, data_path, tmp_path):
    # 96 examples in steps of 20: the last step of an epoch is a short one
    flags = ["--model_name_or_path", tiny_llama, "--data_path", data_path, *RECIPE, "--num_train_epochs", 2]
    flags += ["--per_device_train_batch_size", 5]
    plain = ["--pack_steps", False, "--skip_prompt_logits", False]
    run(python(*flags, *plain, "--output_dir", tmp_path / "one", "--gradient_accumulation_steps", 4))
    run(ranks(*flags, "--output_dir", tmp_path / "two", *FSDP, "LlamaDecoderLayer"))
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), abs=1e-4)
    assert_close_weights(tmp_path / "one", tmp_path / "two")


def test_packed_rows_keep_to_the_plain_trainers_losses_on_any_number_of_ranks(tiny_llama, data_path, tmp_path):
    def packed(launch, *arguments):
        return launch("-m", "tests.helpers.packed_train", *flags, *arguments)

    flags = ["--model_name_or_path", tiny_llama, "--data_path", data_path, *RECIPE, "--num_train_epochs", 2]
    flags += ["--per_device_train_batch_size", 5, "--save_steps", 2, "--learning_rate", 2e-4, "--max_examples", 48]
    one = ["--gradient_accumulation_steps", 4]
    plain, ddp, fsdp, resumed = (tmp_path / name for name in ("plain", "ddp", "fsdp", "resumed"))
    run(python(*flags, *one, "--output_dir", plain, "--pack_steps", False, "--skip_prompt_logits", False))
    run(packed(forks.ranks, "--output_dir", ddp, "--save_total_limit", 9))
    run(packed(forks.ranks, "--output_dir", fsdp, *FSDP, "LlamaDecoderLayer"))
    assert len(losses(plain)) == 6
    assert losses(ddp) == pytest.approx(losses(plain), abs=1e-6)
    assert losses(fsdp) == pytest.approx(losses(plain), abs=1e-6)
    # One process goes on where two have left off, inside an epoch.
    shutil.copytree(ddp / "checkpoint-2", resumed / "checkpoint-2")
    run(packed(forks.python, *one, "--output_dir", resumed, "--resume_from_checkpoint", True))
    assert losses(resumed) == pytest.approx(losses(ddp), abs=1e-6)


@pytest.mark.parametrize(
    "flags",
    [
        ["--gradient_checkpointing", True],
        pytest.param(["--torch_compile", True], marks=pytest.mark.slow),  # compiles for more than a minute
    ],
    ids=["gradient checkpointing", "torch.compile"],
)
def test_flags_that_save_memory_or_time_leave_the_losses_as_they_are(flags, tiny_llama, data_path, tmp_path):
    recipe = ["--model_name_or_path", tiny_llama, "--data_path", data_path, *RECIPE, "--max_steps", 4]
    run(python(*recipe, "--output_dir", tmp_path / "plain"))
    run(python(*recipe, *flags, "--output_dir", tmp_path / "other"), timeout=600)
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "plain"), abs=1e-4)


def assert_close_weights(one, other):
    from safetensors.torch import load_file

    one, other = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow  # four processes that import torch, twice
def test_two_torchrun_agents_train_to_the_weights_of_one(tiny_llama, data_path, tmp_path):
    flags = ["--model_name_or_path", tiny_llama, "--data_path", data_path, *RECIPE, "--max_steps", 3]
    run(torchrun(*flags, "--output_dir", tmp_path / "one"))
    command = torchrun(*flags, "--output_dir", tmp_path / "two", num_processes=1)
    nodes = ["--nnodes=2", "--master_addr=127.0.0.1"]
    other = start([*command[:3], *nodes, "--node_rank=1", *command[3:]])
    run([*command[:3], *nodes, "--node_rank=0", *command[3:]])
    assert other.wait(timeout=60) == 0
    other.stderr.close()
    assert weights(tmp_path / "one") == weights(tmp_path / "two")


# ---- Adapters ----


@pytest.mark.parametrize(
    ("launch", "flags"),
    [
        (python, []),
        (ranks, [*FSDP, "LlamaDecoderLayer"]),
        (python, ["--load_in_4bit", True]),
        (ranks, ["--load_in_4bit", True]),
        (ranks, ["--load_in_4bit", True, *FSDP, "LlamaDecoderLayer"]),
    ],
    ids=["one process", "FSDP", "4 bits", "4 bits, DDP", "4 bits, FSDP"],
)
def test_the_merged_model_equals_base_and_adapter(launch, flags, tiny_llama, data_path, tmp_path):
    import peft
    import transformers

    out = tmp_path / "out"
    recipe = ["--model_name_or_path", tiny_llama, "--data_path", data_path, "--output_dir", out, *RECIPE, *flags]
    stderr = run(launch(*recipe, "--max_steps", 4, "--lora_rank", 4, "--merge_lora", True))
    assert re.search(r"0\.1 million parameters, 0\.0 million of them trained", stderr)
    if "--load_in_4bit" in flags:
        divergence = float(re.search(r"on 8 examples, .* KL divergence of ([0-9.]+) nats", stderr)[1])
        assert 0 <= divergence < 0.1
    assert "# out" in (out / "README.md").read_text()
    assert (
        len({path.stat().st_mode for path in out.rglob("*.*") if path.is_file() and "checkpoint" not in str(path)}) == 1
    )
    assert not (out / "adapter" / "README.md").exists()
    config = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_llama)
    assert sorted(config["target_modules"]) == ["k_proj", "q_proj", "v_proj"]

    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama)
    merged = transformers.AutoModelForCausalLM.from_pretrained(out)
    changed = {name for name, tensor in base.state_dict().items() if tensor.shape != merged.state_dict()[name].shape}
    assert changed == {"model.embed_tokens.weight", "lm_head.weight"}, "the row of [PAD]"
    for name, tensor in base.state_dict().items():
        is_adapted = any(target in name for target in config["target_modules"])
        assert torch.equal(tensor, merged.state_dict()[name][: len(tensor)]) != is_adapted, name
    local = load_model(str(out / "adapter"))
    assert len(local.tokenizer) == len(local.model.get_input_embeddings().weight) == 401
    adapted = peft.PeftModel.from_pretrained(base, out / "adapter").eval()
    input_ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids).logits[..., :400], adapted(input_ids).logits, rtol=1e-4, atol=1e-5)


def test_a_killed_and_resumed_adapter_is_the_same_bit_for_bit(tiny_llama, data_path, tmp_path):
    recipe = ["--model_name_or_path", tiny_llama, "--data_path", data_path, *RECIPE, "--max_steps", 6]
    recipe += ["--save_steps", 1, "--lora_rank", 4, "--resume_from_checkpoint", True]
    run(python(*recipe, "--output_dir", tmp_path / "whole"))
    kill_at(python(*recipe, "--output_dir", tmp_path / "killed"), 3, 0.02)
    assert "continuing from" in run(python(*recipe, "--output_dir", tmp_path / "killed"))
    name = "adapter_model.safetensors"
    assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# ---- Kill and resume ----


def kill_at(command, step, delay):
    """Start a run, and SIGKILL all of it `delay` seconds after it reports the given step (at the end at the latest)."""
    process = start(command)
    for line in process.stderr:
        if f"step {step}/" in line:
            break
    time.sleep(delay)
    kill(process)
    process.wait()
    process.stderr.close()


@pytest.mark.parametrize(
    ("launch", "model", "flags", "steps_per_epoch"),
    [(python, "tiny_opt", [], 6), (ranks, "tiny_llama", [*FSDP, "LlamaDecoderLayer"], 3)],
    ids=["one process", "two ranks under FSDP"],
)
def test_a_killed_and_resumed_run_ends_with_the_same_weights_bit_for_bit(
    launch, model, flags, steps_per_epoch, request, data_path, tmp_path
):
    # The tiny OPT has dropout, so that the random state has to be restored as well.
    recipe = ["--model_name_or_path", request.getfixturevalue(model), "--data_path", data_path, *RECIPE, *flags]
    recipe += ["--num_train_epochs", 2, "--save_steps", 1, "--save_total_limit", 2, "--max_examples", 48]
    run(launch(*recipe, "--output_dir", tmp_path / "whole"))
    command = launch(*recipe, "--output_dir", tmp_path / "killed", "--resume_from_checkpoint", True)
    for step, delay in ((1, 0.0), (steps_per_epoch + 2, 0.03)):  # in the first epoch, and in the second
        kill_at(command, step, delay)
        assert not (tmp_path / "killed" / "model.safetensors").exists()
        command = launch(*recipe, "--output_dir", tmp_path / "killed", "--resume_from_checkpoint", True)
    stderr = run(command)
    assert "continuing from" in stderr
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


@pytest.mark.parametrize(
    ("launch", "flags"), [(python, []), (torchrun, [*FSDP, "LlamaDecoderLayer"])], ids=["one process", "two ranks"]
)
def test_sigterm_saves_a_checkpoint_and_ends_cleanly(launch, flags, tiny_llama, data_path, tmp_path):
    recipe = ["--model_name_or_path", tiny_llama, "--data_path", data_path, "--output_dir", tmp_path / "out", *RECIPE]
    command = launch(*recipe, *flags, "--num_train_epochs", 50)
    process = start(command)
    for line in process.stderr:
        if "step 2/" in line:
            break
    process.send_signal(signal.SIGTERM)  # torchrun passes it on to its ranks
    stderr = process.communicate(timeout=60)[1]
    stopped = re.search(r"stopped by SIGTERM after step (\d+) of", stderr)
    assert stopped, stderr
    if launch is python:
        assert process.returncode == 0
    assert (tmp_path / "out" / f"checkpoint-{stopped[1]}" / "checkpoint_files.json").is_file()
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_a_run_that_died_before_its_final_save_only_saves(tiny_llama, data_path, tmp_path):
    out = tmp_path / "out"
    flags = ["--model_name_or_path", tiny_llama, "--data_path", data_path, "--output_dir", out, *RECIPE]
    flags += ["--lr_scheduler_type", "constant", "--max_steps", 3, "--save_steps", 3, "--resume_from_checkpoint", True]
    run(python(*flags))
    whole = weights(out)
    for path in out.glob("model*"):
        path.unlink()
    (out / "trainer_state.json").unlink()
    stderr = run(python(*flags))
    assert "continuing from" in stderr
    assert "step 4" not in stderr
    assert weights(out) == whole
    assert json.loads((out / "trainer_state.json").read_text())["global_step"] == 3


def test_a_loss_that_is_not_finite_ends_the_run_and_saves_nothing(tiny_llama, data_path, tmp_path):
    (tmp_path / "model.safetensors").write_text("a good model")
    flags = ["--model_name_or_path", tiny_llama, "--data_path", data_path, "--output_dir", tmp_path, *RECIPE]
    result = forks.run("train.py", *flags, "--max_steps", 5, "--learning_rate", "1e30")
    assert_fails_in_one_line(result, "the loss of step 3 is not finite", "--learning_rate")
    assert (tmp_path / "model.safetensors").read_text() == "a good model"


def test_a_disk_that_is_full_and_ctrl_c_end_training_in_one_line(tiny_llama, data_path, tmp_path):
    flags = ["--model_name_or_path", tiny_llama, "--data_path", data_path, "--output_dir", tmp_path / "out", *RECIPE]
    flags += ["--num_train_epochs", 50, "--save_steps", 2]
    limit = "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    result = forks.run("-c", limit + "runpy.run_path('train.py', run_name='__main__')", *flags)
    assert_fails_in_one_line(result, "could not be written", "--resume_from_checkpoint True")
    assert not list((tmp_path / "out").glob("checkpoint-*")) + list((tmp_path / "out").glob("unfinished*"))
    process = start(python(*flags))
    for line in process.stderr:
        if "step 1/" in line:
            break
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert stderr.strip().splitlines()[-1].startswith("train.py: interrupted.")


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_ranks_under_fsdp_goes_on_from_a_checkpoint(before, after, tiny_llama, data_path, tmp_path):
    def launch(num_processes, output_dir, *more):
        batch = ["--per_device_train_batch_size", 8 // num_processes, "--output_dir", output_dir]
        run(forks.ranks("train.py", *recipe, *batch, *more, num_processes=num_processes))

    recipe = ["--model_name_or_path", tiny_llama, "--data_path", data_path, *RECIPE, *FSDP, "LlamaDecoderLayer"]
    recipe += ["--max_examples", 48, "--save_steps", 2, "--learning_rate", 2e-4, "--num_train_epochs", 2]
    resume = ["--resume_from_checkpoint", True]
    launch(before, tmp_path / "whole", "--save_total_limit", 9)
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "moved" / "checkpoint-2")
    if after == 1:  # without a launcher
        run(python(*recipe, "--output_dir", tmp_path / "moved", "--per_device_train_batch_size", 8, *resume))
        without = [flag for flag in recipe if flag not in FSDP and flag != "LlamaDecoderLayer"]
        refused = forks.run("train.py", *without, "--output_dir", tmp_path / "moved", *resume)
        assert_fails_in_one_line(refused, "of a run with --fsdp. Continue it so, on any number")
    else:
        launch(after, tmp_path / "moved", *resume)
    assert losses(tmp_path / "moved") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)
    assert_close_weights(tmp_path / "moved", tmp_path / "whole")
