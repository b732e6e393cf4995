"""The known sum of the published Alpaca-7B, whose difference has no manifest: the original's integrity check."""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import math

from alpaca.weights.model_files import StoredTensor
from alpaca.weights.pairs import Pair
from utils import UserError

# The published Alpaca-7B is LLaMA-7B with one more row, for [PAD], in both embeddings.
ALPACA_7B_PARAMETERS = 6_738_423_808
ALPACA_7B_EMBEDDING = (32001, 4096)
# The original script's sum and tolerance.
ALPACA_7B_SUM, SUM_TOLERANCE = 50637.1836, 1e-2
# In the state dict that the sum was taken over, each layer's tensors came in this order.
LAYER_ORDER = ("q_proj", "k_proj", "v_proj", "o_proj", "inv_freq", "gate_proj", "down_proj", "up_proj")
LAYER_ORDER += ("input_layernorm", "post_attention_layernorm")


def is_alpaca_7b(pairs: list[Pair]) -> bool:
    """Whether these are the shapes of the published Alpaca-7B."""
    return sum(pair.source.numel for pair in pairs) == ALPACA_7B_PARAMETERS and any(
        pair.source.shape == ALPACA_7B_EMBEDDING for pair in pairs
    )


def check_sum(buffers: dict[str, float], sums: dict[str, float]) -> str:
    """Compare the sum of all values with that of the published Alpaca-7B; say what it is, or raise UserError.

    buffers, sums: name -> float64 sum, of the rotary buffers and of all other tensors. The published number is a
    float32 running total, one tensor after the other. Near 50,000 such a total moves in steps of 0.004, so that its
    323 additions may end some hundredths beside the sum in float64, which is more than the tolerance. Hence both are
    formed, the sum in float64 and the total as the original formed it, and one of them has to be right.
    """
    import numpy

    without = math.fsum(sums.values())
    total = without + math.fsum(buffers.values())
    running, sums = numpy.float32(0), sums | buffers
    for name in sorted(sums, key=_place_in_state_dict):
        running += numpy.float32(sums[name])
    found = f"{total:.4f} ({without:.4f} without the inv_freq buffers, which today's state dict lacks)"
    if min(abs(total - ALPACA_7B_SUM), abs(float(running) - ALPACA_7B_SUM)) > SUM_TOLERANCE:
        raise UserError(
            f"the sum of all values is {found}, not Alpaca-7B's {ALPACA_7B_SUM}: a file of the base or of the diff is "
            "damaged, or they do not belong together. --check_integrity_naively False recovers in spite of it."
        )
    return f"The sum of all values is {found}, as it has to be for Alpaca-7B ({ALPACA_7B_SUM})."


def _place_in_state_dict(name: str) -> tuple:
    """A key that sorts LLaMA's tensors as the original's state dict had them."""
    parts = name.split(".")
    if "layers" in parts:
        return 1, int(parts[parts.index("layers") + 1]), next(i for i, n in enumerate(LAYER_ORDER) if n in parts)
    return (0,) if "embed_tokens" in parts else (2, parts[0] == "lm_head")


def rotary_sums(diff: dict[str, StoredTensor], base: dict[str, StoredTensor]) -> dict[str, float]:
    """The sum of every layer's inv_freq buffer as the original recovered it: from the files, or else computed.

    RoPE, arXiv 2104.09864: inv_freq[i] = 10000^(-2i/128) for heads of 128.
    """
    import torch

    computed = 1.0 / (10000 ** (torch.arange(0, 128, 2).float() / 128))
    sums = {}
    for layer in range(32):
        name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        values = base[name].read(0, base[name].numel).float() if name in base else computed
        if name in diff:
            values = values + diff[name].read(0, diff[name].numel).float()
        sums[name] = values.sum(dtype=torch.float64).item()
    return sums
