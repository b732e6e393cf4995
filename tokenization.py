"""Token ids and prompt lengths of all examples: every text is read once, on all cores, and the result is cached.

An example is the tokenization of prompt + response, and its prompt takes as many positions as the tokenization of the
prompt alone. To learn both in one pass, a marker token is put between the two. It keeps tokens from forming across
the border; where none could (no word of the vocabulary has the prompt's last character followed by the response's
first), what is left without the marker is the tokenization of the whole. The other examples are read twice.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import hashlib
import json
import os
import re
import string
import zipfile
from pathlib import Path

import numpy as np
import tokenizers
import transformers

MARKER = "<|end of prompt|>"
CHUNK = 1000  # examples per call: bounds the memory that the tokenizer's own results take
CACHE_VERSION = 1


def tokenize(
    sources: list[str], targets: list[str], tokenizer: transformers.PreTrainedTokenizerBase
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids of source + target, cut off at tokenizer.model_max_length, all in one int32 array; int64 offsets[n + 1]
    where each example begins and the last one ends; int32[n], how many tokens each source has by itself, cut off alike.
    """
    safe = safe_first_characters(sources, tokenizer)
    marked = tokenizer_with_marker(tokenizer, sources[0], safe)
    if any(MARKER in text for texts in (sources, targets) for text in texts):
        marked = None
    ids, source_lens = [], []
    for start in range(0, len(sources), CHUNK):
        pairs = list(zip(sources[start : start + CHUNK], targets[start : start + CHUNK], strict=True))
        if marked is None:
            chunk = read_twice(pairs, tokenizer)
        else:
            unsafe = [i for i, (_, target) in enumerate(pairs) if target[:1] not in safe]
            chunk = read_once(pairs, marked, tokenizer.model_max_length)
            for i, example in zip(unsafe, read_twice([pairs[i] for i in unsafe], tokenizer, marked), strict=True):
                chunk[i] = example
        ids += [example_ids for example_ids, _ in chunk]
        source_lens += [length for _, length in chunk]
    offsets = np.concatenate([[0], np.cumsum([len(example_ids) for example_ids in ids])])
    return np.concatenate(ids), offsets, np.array(source_lens, dtype=np.int32)


def read_twice(pairs: list[tuple[str, str]], tokenizer, marked=None) -> list[tuple[np.ndarray, int]]:
    """(ids, number of source tokens) of each pair, by the definition; marked, which reads the same, saves time."""

    def read(texts: list[str]) -> list[list[int]]:
        if marked is None:
            return tokenizer(texts, truncation=True)["input_ids"]
        return [encoding.ids[: tokenizer.model_max_length] for encoding in marked.encode_batch_fast(texts)]

    if not pairs:
        return []
    texts, sources = read([source + target for source, target in pairs]), read([source for source, _ in pairs])
    return [(np.array(text, dtype=np.int32), len(source)) for text, source in zip(texts, sources, strict=True)]


def read_once(pairs: list[tuple[str, str]], marked: tokenizers.Tokenizer, max_length: int):
    """(ids, number of source tokens) of each pair, by the position of the marker."""
    marker_id = marked.token_to_id(MARKER)
    examples = []
    for encoding in marked.encode_batch_fast([source + MARKER + target for source, target in pairs]):
        ids = np.array(encoding.ids, dtype=np.int32)
        position = int(np.argmax(ids == marker_id))  # 0 where it was cut off: the source alone fills max_length
        if ids[position] == marker_id:
            examples.append((np.delete(ids, position), position))
        else:
            examples.append((ids[:max_length], max_length))
    return examples


def tokenizer_with_marker(tokenizer, source: str, safe: set[str]) -> tokenizers.Tokenizer | None:
    """A copy of the tokenizer that knows the marker; None where putting it in changes more than the border."""
    if not isinstance(tokenizer, transformers.PreTrainedTokenizerFast) or tokenizer.model_max_length > 10**6:
        return None
    if not safe:
        return None
    backend = tokenizer.backend_tokenizer
    # An end-of-text token after each text would have to be cut off differently; whole words that skip the merge rules
    # could come out otherwise beside the border.
    if len(tokenizer("").input_ids) > 1 or getattr(backend.model, "ignore_merges", False):
        return None
    marked = tokenizers.Tokenizer.from_str(backend.to_str())
    marked.add_special_tokens([tokenizers.AddedToken(MARKER, normalized=False, special=True)])
    marked.no_padding()
    marked.enable_truncation(tokenizer.model_max_length + 1)
    border, letter = source[-1], min(safe)
    for target in (letter, f"{letter} {letter}", f"{letter}{letter}"):
        # Some tokenizers put a space before every piece of text between special tokens.
        ids = [i for i in marked.encode(f"a a{border}{MARKER}{target}").ids if i != marked.token_to_id(MARKER)]
        if ids != tokenizer(f"a a{border}{target}").input_ids:
            return None
    return marked


def safe_first_characters(sources: list[str], tokenizer) -> set[str]:
    """ASCII letters and digits that no word of the vocabulary has right after the sources' last character."""
    (last,) = {source[-1] for source in sources}
    follows = re.compile(f"{re.escape(last)}(?=(.))")
    followers = {c.lower() for word in tokenizer.get_vocab() for c in follows.findall(word)}
    return {c for c in string.ascii_letters + string.digits if c.lower() not in followers}


def cached(key: bytes, cache_dir: str | None, compute) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What compute() returns, kept on disk under a hash of key; a cache that cannot be used is done without."""
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


def cache_key(sources: list[str], targets: list[str], tokenizer: transformers.PreTrainedTokenizerFast) -> bytes:
    """Everything that the result depends on: texts, tokenizer, length limit, and the version of this file's format."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # left over from an earlier call, and set again by the next
    backend.no_padding()
    parts = [CACHE_VERSION, tokenizer.model_max_length, backend.to_str(), sources, targets]
    return json.dumps(parts).encode()


def default_cache_dir(cache_dir: str | None) -> Path:
    """The folder alpaca-tokenized in cache_dir or in the user's own (XDG_CACHE_HOME, ~/.cache)."""
    base = cache_dir or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "alpaca-tokenized"
