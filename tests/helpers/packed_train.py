"""train.py on a CPU with rows of whole documents, as on a GPU: a block-diagonal mask stands in for the GPU's kernel."""

import torch
import transformers

import train
from alpaca.training import packed_steps


def block_diagonal_attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Attention in which each document of a row sees itself only, and in a sliding window no more than that."""
    cu_seq_lens, n = kwargs["cu_seq_lens_q"], query.shape[2]
    documents = torch.bucketize(torch.arange(n), cu_seq_lens[1:], right=True)
    distance = torch.arange(n)[:, None] - torch.arange(n)
    visible = (documents[:, None] == documents) & (distance >= 0)
    if window := kwargs.get("sliding_window"):
        visible &= distance < window
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    output = torch.nn.functional.scaled_dot_product_attention(query, key, value, visible, scale=scaling)
    return output.transpose(1, 2), None


transformers.AttentionInterface.register("block_diagonal", block_diagonal_attention)

if __name__ == "__main__":
    packed_steps.attention_for_rows = lambda device, dtype: "block_diagonal"
    train.main()
