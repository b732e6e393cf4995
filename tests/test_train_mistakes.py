"""Bad input to train.py gets one clear line, before any model is loaded; and help, as quickly."""

import concurrent.futures
import fcntl
import json
import os
import shutil

import pytest

from tests.helpers import forks
from tests.helpers.commands import assert_fails_in_one_line, run_script
from utils import jdump


@pytest.fixture(scope="module")
def mistakes(tiny_llama, data_path, tmp_path_factory):
    """Every bad command line, run two at a time: {name: (result, parts of the line)}."""
    tmp = tmp_path_factory.mktemp("mistakes")
    good = {"instruction": "Say hi.", "input": "", "output": "Hi."}
    files = {
        "not_json": '[{"instruction": "a",',
        "empty": "[]",
        "no_object": json.dumps([good, "text"]),
        "no_output": json.dumps([good, good, {"instruction": "a", "input": ""}]),
        "not_text": json.dumps([good, {**good, "output": 5}]),
        "too_long": json.dumps([{**good, "instruction": "word " * 3000}]),
        "not_json_lines": json.dumps(good) + "\n{",
        "digits": "9" * 5000,
        "deep": "[" * 100_000,
    }
    for name, content in files.items():
        (tmp / f"{name}.json").write_text(content)
    (tmp / "no_weights").mkdir()
    (tmp / "no_weights" / "config.json").write_text((tiny_llama / "config.json").read_text())
    (tmp / "file").write_text("")
    copies = {name: shutil.copytree(tiny_llama, tmp / name) for name in ("own_code", "no_tokens", "flipped")}
    config = json.loads((tiny_llama / "config.json").read_text())
    own = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Model"}}
    jdump({**config, **own}, copies["own_code"] / "config.json")
    (copies["own_code"] / "mine.py").write_text(f"open({str(tmp / 'was_run')!r}, 'w')")
    (copies["no_tokens"] / "tokenizer.json").write_text('{"model": 1}')
    weights_path = next(copies["flipped"].glob("*.safetensors"))
    weights_path.write_bytes(weights_path.read_bytes()[:3000])
    (tmp / "in_use").mkdir()
    fcntl.flock(os.open(tmp / "in_use", os.O_RDONLY), fcntl.LOCK_EX)
    base = {"--model_name_or_path": tiny_llama, "--data_path": data_path, "--output_dir": tmp / "out"}
    data = {name: {"--data_path": tmp / f"{name}.json"} for name in files}
    cases = {
        "data missing": ({"--data_path": tmp / "none.json"}, ["none.json", "no such file"]),
        "data flag missing": ({"--data_path": None}, ["--data_path is missing"]),
        "not JSON": (data["not_json"], ["not_json.json, line 1, column", "not JSON"]),
        "not JSON lines": (data["not_json_lines"], ["not_json_lines.json, line 2", "not JSON"]),
        "empty list": (data["empty"], ["no examples"]),
        "no object": (data["no_object"], ["entry 1 is not an object", "1 of 2"]),
        "no output": (data["no_output"], ["entry 2 has no 'output'"]),
        "not text": (data["not_text"], ["entry 1 has a field 'output' that is not text but int"]),
        "too long": (data["too_long"], ["512 tokens before its response begins", "--model_max_length"]),
        "digits": (data["digits"], ["digits.json", "a number that is too long"]),
        "deep": (data["deep"], ["deep.json", "nested too deeply"]),
        "device": ({"--data_path": "/dev/zero"}, ["/dev/zero: not a regular file"]),
        "own code": ({"--model_name_or_path": copies["own_code"]}, ["code of its own (auto_map)", "never run"]),
        "damaged tokenizer": ({"--model_name_or_path": copies["no_tokens"]}, ["no_tokens: no tokenizer", "cannot be"]),
        "damaged weights": ({"--model_name_or_path": copies["flipped"]}, ["flipped: cannot be loaded"]),
        "in use": ({"--output_dir": tmp / "in_use"}, ["in_use: another run is at work here"]),
        "model missing": ({"--model_name_or_path": tmp / "none"}, ["none", "no such folder"]),
        "no weights": ({"--model_name_or_path": tmp / "no_weights"}, ["no weights", "--init_from_config True"]),
        "unknown flag": ({"--learning_rat": "1"}, ["no flag --learning_rat", "Did you mean --learning_rate?"]),
        "bad value": ({"--learning_rate": "fast"}, ["--learning_rate", "fast"]),
        "output not writable": ({"--output_dir": tmp / "file" / "out"}, ["--output_dir", "cannot be written to"]),
        "no such config": ({"--config": tmp / "none.yaml"}, ["none.yaml", "no such file"]),
        "no such checkpoint": ({"--resume_from_checkpoint": tmp / "none"}, ["not a whole checkpoint", "no such"]),
        "no such layer": (
            {"--lora_rank": "4", "--lora_target_modules": "q_prj"},
            ["--lora_target_modules q_prj", "q_proj"],
        ),
        "merge without adapter": ({"--merge_lora": "True"}, ["--lora_rank"]),
        "contradiction": ({"--eval_strategy": "steps", "--logging_steps": "0"}, ["--logging_steps"]),
    }  # fmt: skip

    def try_it(name):
        own = {"--output_dir": tmp / "out" / name}  # a folder takes one run at a time
        flags = {flag: value for flag, value in {**base, **own, **cases[name][0]}.items() if value is not None}
        arguments = [str(text) for flag in flags.items() for text in flag]
        return forks.run("train.py", *arguments)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = pool.map(try_it, cases)
    return {name: (result, parts) for (name, (_, parts)), result in zip(cases.items(), results, strict=True)}


MISTAKES = (
    "data missing, data flag missing, not JSON, not JSON lines, empty list, no object, no output, not text, too long, "
    "model missing, no weights, unknown flag, bad value, output not writable, no such config, no such checkpoint, "
    "no such layer, merge without adapter, contradiction, digits, deep, device, own code, damaged tokenizer, "
    "damaged weights, in use"
).split(", ")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_clear_line(name, mistakes):
    result, parts = mistakes[name]
    assert_fails_in_one_line(result, *parts)
    assert "Loading weights" not in result.stderr or name == "damaged weights"


def test_the_code_of_a_model_is_not_run(mistakes, tmp_path_factory):
    assert not list(tmp_path_factory.getbasetemp().glob("mistakes*/was_run"))


@pytest.mark.slow  # as the quick start runs, where deepspeed is not installed either
def test_training_does_without_deepspeed(tiny_llama, data_path, tmp_path):
    block = "import sys; sys.modules['deepspeed'] = None; import train; train.main()"
    flags = ["--model_name_or_path", tiny_llama, "--data_path", data_path, "--output_dir", tmp_path, "--max_steps", 1]
    result = run_script("-c", block, *flags)
    assert result.returncode == 0, result.stderr


def test_help_is_short_and_neither_it_nor_a_mistyped_flag_waits_for_the_libraries():
    result = run_script("-X", "importtime", "train.py", "--help")
    assert result.returncode == 0
    for flag in ("--data_path", "--config", "--init_from_config", "--learning_rate", "--help_all"):
        assert f"  {flag} " in result.stdout
    assert "--adam_beta1" not in result.stdout
    assert len(result.stdout.splitlines()) <= 100
    mistyped = run_script("-X", "importtime", "train.py", "--learning_rat=1")
    assert_fails_in_one_line(mistyped, "no flag --learning_rat", "Did you mean --learning_rate?")
    for run in (result, mistyped):
        assert " torch" not in run.stderr
        assert " transformers" not in run.stderr
    everything = forks.run("train.py", "--help_all").stdout
    for flag in ("--data_path", "--adam_beta1", "--warmup_ratio", "--config"):
        assert flag in everything
