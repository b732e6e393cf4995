"""A completion from a model that has just been recovered, in the number type that the memory has room for."""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import re
from pathlib import Path

from alpaca.weights.model_files import Shards, size_text, total_numel
from utils import format_prompt

INSTRUCTION = "Name three things that people use every day."
NEW_TOKENS = 64
WORKING_BYTES = 1 << 29  # what inference takes beside the weights


def dtype_that_fits(shards: Shards):
    """float32 or bfloat16, whichever the memory has room for, or None, after a line that says so."""
    import torch

    numel = total_numel(shards)
    available = available_memory()
    for dtype in (torch.float32, torch.bfloat16):
        if numel * dtype.itemsize + WORKING_BYTES <= available:
            return dtype
    print(
        f"No completion from the recovered model: it needs {size_text(numel * 2 + WORKING_BYTES)} of memory, "
        f"{size_text(available)} are available."
    )
    return None


def available_memory() -> int:
    """Bytes that this process may still take, in a container too."""
    import psutil

    available = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no control group (version 2) here, or no limit ("max")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        # Cached files count as used, and give way.
        cached = re.search(r"^file (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
        available = min(available, limit - used + int(cached[1]))
    return available


def empty_state_dict(shards: Shards, dtype) -> dict:
    import torch

    if dtype is None:
        return {}
    return {name: torch.empty(shape, dtype=dtype) for layout in shards.values() for name, _, shape in layout}


def copy_into(state_dict: dict, name: str, start: int, values) -> None:
    """Keep a slice of a recovered tensor, if it is wanted."""
    if name in state_dict:
        state_dict[name].view(-1)[start : start + len(values)] = values


def print_completion(path: str, dtype, state_dict: dict, is_tied: bool) -> None:
    """Print a model's answer to INSTRUCTION.

    path holds the model or, where there is a state_dict, what else belongs to it; is_tied then says that its
    embeddings are tied, whatever the configuration there says.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    if state_dict:
        config = AutoConfig.from_pretrained(path)
        if is_tied:
            config.tie_word_embeddings = True
        with torch.device("meta"):  # only to learn its class
            model_class = type(AutoModelForCausalLM.from_config(config))
        model = model_class.from_pretrained(None, config=config, state_dict=state_dict, dtype=dtype)
    else:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    inputs = tokenizer(format_prompt(INSTRUCTION), return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
    completion = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    print(f"Instruction: {INSTRUCTION}\nCompletion ({str(dtype).removeprefix('torch.')}): {completion.strip()}")
