"""`transformers serve`, a server of others: over both of its APIs it plays the teacher, and a model that train.py has
saved, whose answers are those that it gives here."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import openai
import pytest

from data.openai_server import completion_of
from generate_instruction import encode_prompt, load_seed_tasks
from tests.helpers import forks
from tests.helpers.commands import ROOT, assert_fails_in_one_line, free_port
from tests.helpers.generation_data import wait_until, write_inputs
from utils import jdump, jload

TASKS = [
    {"instruction": "Name the capital of France.", "input": "", "output": "Paris"},
    {"instruction": "Sort the list of words.", "input": "pear, fig", "output": "fig, pear"},
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, num_seed_tasks=3)
    return folder


@pytest.fixture(scope="module")
def teacher_path(tmp_path_factory, inputs):
    """A tiny LLaMA that has learned by heart to go on with TASKS after any prompt made from the inputs."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from configs import tiny_models

    path = tiny_models.save_llama(tmp_path_factory.mktemp("teacher"))
    tokenizer = AutoTokenizer.from_pretrained(path)
    # The chat API then sees the same text as the completions API.
    tokenizer.chat_template = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path)
    completion = completion_of(TASKS, first_number=2).rstrip() + "</s>"
    seed_tasks = load_seed_tasks(inputs / "seed_tasks.jsonl")
    texts = [encode_prompt([task], inputs / "prompt.txt") + completion for task in seed_tasks]
    examples = [tokenizer(text, return_tensors="pt").input_ids for text in texts]
    num_labels = len(tokenizer(completion, add_special_tokens=False).input_ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step, input_ids in enumerate(itertools.cycle(examples)):
        labels = input_ids.clone()
        labels[:, :-num_labels] = -100
        loss = model(input_ids=input_ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 0.01 or step == 600:
            break
    assert loss.item() < 0.05
    model.save_pretrained(path)
    return path


@contextlib.contextmanager
def serve(model_path):
    """The address of `transformers serve`, which waits for a free port to be named: one is taken from the system."""
    port = free_port()
    command = [Path(sys.executable).parent / "transformers", "serve", model_path, "--port", str(port)]
    process = subprocess.Popen(
        command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None
        try:
            return urllib.request.urlopen(f"{url}/health", timeout=5).status == 200
        except OSError:
            return False

    try:
        wait_until(answers, timeout_sec=120)
        yield f"{url}/v1"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def server_url(teacher_path):
    with serve(teacher_path) as url:
        yield url


def generate(inputs, server_url, output_dir, *flags):
    """Two tasks, from a server that needs no key."""
    return forks.run(
        ROOT / "generate_instruction.py",
        "generate_instruction_following_data",
        "--num_instructions_to_generate=2",
        "--num_prompt_instructions=1",
        f"--output_dir={output_dir}",
        *flags,
        cwd=inputs,
        OPENAI_BASE_URL=server_url,
        OPENAI_API_KEY="",
    )


@pytest.mark.parametrize("api", ["auto", "chat"])
def test_tasks_come_from_transformers_serve(api, inputs, teacher_path, server_url, tmp_path):
    result = generate(inputs, server_url, tmp_path, f"--model_name={teacher_path}", f"--api={api}")
    assert result.returncode == 0, result.stderr
    entries = json.loads((tmp_path / "regen.json").read_text(encoding="utf-8"))
    assert [{key: entry[key] for key in TASKS[0]} for entry in entries] == TASKS
    (line,) = (json.loads(line) for line in (tmp_path / "generation_log.jsonl").read_text("utf-8").splitlines())
    assert line["api"] == ("chat" if api == "chat" else "completions")
    assert line["prompt_tokens"] > 50 < line["completion_tokens"]
    # It takes no list of prompts.
    assert result.stderr.count("going on one prompt per request") == (api == "auto")


def test_a_model_that_transformers_serve_does_not_have_is_one_line(inputs, server_url, tmp_path):
    assert_fails_in_one_line(generate(inputs, server_url, tmp_path), "text-davinci-003", "January 2024")
    assert_fails_in_one_line(generate(inputs, server_url, tmp_path, "--model_name=other"), "has no model 'other'")


@pytest.mark.slow  # trains a model until its answers differ, and starts a server
@pytest.mark.parametrize("model", ["tiny_llama", "tiny_opt"])
def test_a_model_that_train_py_has_saved_answers_20_messages_alike_everywhere(model, request, tmp_path, monkeypatch):
    import compare
    from alpaca.inference.local import Decoding, load_model, stream
    from alpaca.inference.server import chat_message

    examples = [example for example in jload(ROOT / "alpaca_data.json") if len(example["output"]) < 30]
    with_input = [example for example in examples if example["input"]]
    examples = [*with_input[:8], *[example for example in examples if not example["input"]][:12]]
    jdump(examples, tmp_path / "data.json")
    recipe = (
        "--max_steps",
        60,
        "--learning_rate",
        "3e-3",
        "--per_device_train_batch_size",
        20,
        "--save_strategy",
        "no",
    )
    paths = ("--model_name_or_path", request.getfixturevalue(model), "--data_path", tmp_path / "data.json")
    result = forks.run("train.py", *paths, "--output_dir", tmp_path / "out", *recipe)
    assert result.returncode == 0, result.stderr

    def answers(name, **flags):
        path = str(tmp_path / f"{name}.json")
        compare.generate(str(tmp_path / "data.json"), path, max_new_tokens=24, **flags)
        return [entry["output"] for entry in jload(path)]

    here = answers("here", model_name_or_path=str(tmp_path / "out"))
    assert len(set(here)) > 10, "no answer by heart"
    local = load_model(str(tmp_path / "out"))
    with serve(tmp_path / "out") as url:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        for api in ("chat", "completions"):
            assert answers(api, model_name=str(tmp_path / "out"), api=api) == here
        client = openai.OpenAI(api_key="none")
        for example, answer in zip(examples, here, strict=True):
            prompt = local.prompt(example["instruction"], example["input"])
            messages = [{"role": "user", "content": chat_message(example["instruction"], example["input"])}]
            ids = local.encode(prompt)
            assert ids == local.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            reply = client.chat.completions.create(model=str(tmp_path / "out"), messages=messages, max_tokens=1)
            assert reply.usage.prompt_tokens == len(ids)
            *_, (streamed, _) = stream(local, prompt, Decoding(max_new_tokens=24))  # as demo.py does
            assert streamed == answer
