"""Token ids and prompt lengths of all examples: every text is read once, on all cores, and the result is cached.

An example is the tokenization of prompt + response, and its prompt takes as many positions as the tokenization of the
prompt alone. Where a token of the whole begins exactly at the response, the tokens before it are the tokenization of
the prompt: no merge went across the border, so those on its left were made as if nothing followed (BPE; for Unigram,
the best path to a border is the same whatever comes behind). The few other examples are read twice.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import hashlib
import itertools
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import tokenizers
import transformers

CHUNK = 1000  # examples per call: bounds the memory that the tokenizer's own results take
CACHE_VERSION = 2


def tokenize(
    sources: list[str], targets: list[str], tokenizer: transformers.PreTrainedTokenizerBase
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids of source + target, cut off at tokenizer.model_max_length, all in one int32 array; int64 offsets[n + 1]
    where each example begins and the last one ends; int32[n], how many tokens each source has by itself, cut off alike.
    Sources have to end alike, and not in a space, as prompts do.
    """
    one_pass = border_shows_source_len(tokenizer, sources[0])
    ids, lengths, source_lens = [], [], []
    for start in range(0, len(sources), CHUNK):
        chunk = sources[start : start + CHUNK]
        texts = [source + target for source, target in zip(chunk, targets[start : start + CHUNK], strict=True)]
        if one_pass:
            encodings = backend_that_cuts_off(tokenizer).encode_batch(texts)
            text_ids = [encoding.ids for encoding in encodings]
            lens = [source_len(encoding, len(source)) for encoding, source in zip(encodings, chunk, strict=True)]
        else:
            text_ids, lens = read(texts, tokenizer), [None] * len(chunk)
        unknown = [i for i, num_tokens in enumerate(lens) if num_tokens is None]
        for i, source_ids in zip(unknown, read([chunk[i] for i in unknown], tokenizer), strict=True):
            lens[i] = len(source_ids)
        ids.append(np.fromiter(itertools.chain.from_iterable(text_ids), dtype=np.int32))
        lengths += map(len, text_ids)
        source_lens += lens
    if isinstance(tokenizer, transformers.PreTrainedTokenizerFast):
        tokenizer.backend_tokenizer.no_truncation()  # it would be saved with the tokenizer
    return np.concatenate(ids), np.concatenate([[0], np.cumsum(lengths)]), np.array(source_lens, dtype=np.int32)


def read(texts: list[str], tokenizer: transformers.PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of each text, cut off at tokenizer.model_max_length."""
    if not isinstance(tokenizer, transformers.PreTrainedTokenizerFast):
        return [tokenizer(text, truncation=True).input_ids for text in texts]
    return [encoding.ids for encoding in backend_that_cuts_off(tokenizer).encode_batch_fast(texts)]


def backend_that_cuts_off(tokenizer: transformers.PreTrainedTokenizerFast) -> tokenizers.Tokenizer:
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.enable_truncation(tokenizer.model_max_length)
    return tokenizer.backend_tokenizer


def source_len(encoding: tokenizers.Encoding, border: int) -> int | None:
    """How many tokens come before the one that begins at character border; None where none begins there."""
    token = encoding.char_to_token(border)
    return token if token is not None and encoding.token_to_chars(token)[0] == border else None


def border_shows_source_len(tokenizer: transformers.PreTrainedTokenizerBase, source: str) -> bool:
    """Whether the tokens before a border are those of the text before it: not where the tokenizer puts a token after
    each text, nor where it looks up whole words first and the source's last word has more than one character."""
    if not isinstance(tokenizer, transformers.PreTrainedTokenizerFast) or len(tokenizer("").input_ids) > 1:
        return False
    backend = tokenizer.backend_tokenizer
    if not getattr(backend.model, "ignore_merges", False):
        return True
    return backend.pre_tokenizer is not None and len(backend.pre_tokenizer.pre_tokenize_str(source)[-1][0]) == 1


def cached(key: bytes | None, cache_dir: str | None, compute) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What compute() returns, kept on disk under a hash of key; a cache that cannot be used is done without."""
    if key is None:
        return compute()
    path = default_cache_dir(cache_dir) / f"{hashlib.sha256(key).hexdigest()}.npz"
    try:
        with np.load(path) as arrays:
            return arrays["ids"], arrays["offsets"], arrays["source_lens"]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):  # not there, or cut off
        pass
    ids, offsets, source_lens = compute()
    temporary = path.with_suffix(f".{os.getpid()}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(temporary, ids=ids, offsets=offsets, source_lens=source_lens)
        os.replace(temporary, path)
    except OSError:  # a read-only home or a full disk costs the next start some seconds, no more
        with contextlib.suppress(OSError):
            temporary.unlink()
    return ids, offsets, source_lens


def cache_key(sources: list[str], targets: list[str], tokenizer: transformers.PreTrainedTokenizerBase) -> bytes | None:
    """Everything that the result depends on: texts, tokenizer, length limit, and the version of this file's format.
    None for a tokenizer in Python, which cannot be written down as a whole."""
    if not isinstance(tokenizer, transformers.PreTrainedTokenizerFast):
        return None
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # left over from an earlier call, and set again by the next
    backend.no_padding()
    parts = [CACHE_VERSION, tokenizer.model_max_length, backend.to_str(), sources, targets]
    return json.dumps(parts).encode()


def default_cache_dir(cache_dir: str | None) -> Path:
    """The folder alpaca-tokenized in cache_dir or in the user's own (XDG_CACHE_HOME, ~/.cache)."""
    base = cache_dir or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "alpaca-tokenized"
