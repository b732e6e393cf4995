"""What weight_diff.py has to equal, the plain way: both models in memory, in float32, one addition per name.

python -m benchmarks.plain_weight_diff make_diff <raw> <tuned> <diff>
python -m benchmarks.plain_weight_diff recover <raw> <diff> <recovered>

Like the original script it goes through the state dict and changes it in place. Written for tests and benchmarks.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def load_raw(path):
    """The base model in float32 with, if its tokenizer has no pad token, a mean row for [PAD] in both embeddings."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    if tokenizer.pad_token is None:
        added = tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        model.resize_token_embeddings(len(tokenizer))
        for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
            weight = embedding.weight.data
            weight[-added:] = weight[:-added].mean(dim=0, keepdim=True)
    return model


def make_diff(path_raw, path_tuned, path_diff):
    raw = load_raw(path_raw).state_dict()
    tuned = AutoModelForCausalLM.from_pretrained(path_tuned, dtype=torch.float32)
    for name, values in tuned.state_dict().items():
        values.sub_(raw[name])
    tuned.save_pretrained(path_diff)
    AutoTokenizer.from_pretrained(path_tuned).save_pretrained(path_diff)


def recover(path_raw, path_diff, path_recovered):
    raw = load_raw(path_raw).state_dict()
    recovered = AutoModelForCausalLM.from_pretrained(path_diff, dtype=torch.float32)
    for name, values in recovered.state_dict().items():
        values.add_(raw[name])
    recovered.save_pretrained(path_recovered)
    AutoTokenizer.from_pretrained(path_diff).save_pretrained(path_recovered)


if __name__ == "__main__":
    {"make_diff": make_diff, "recover": recover}[sys.argv[1]](*sys.argv[2:])
