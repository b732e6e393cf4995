"""Seconds to tokenize 52,000 examples with their labels: one call per text, and SupervisedDataset.

python -m benchmarks.tokenization [--data_path alpaca_data.json] [--tokenizer <folder>] [--repeats 3]

The examples of the file are repeated, each with its number in it, until there are 52,000. Without --tokenizer, two are
made from the data, 16,000 words each: LLaMA's kind (BPE over the whole text) and OPT's (BPE over words). One call per
text is what the definition says: prompt + response, and the prompt again for its length. Both ways read the file
too, and give the same token ids and labels, which is checked. Prints medians, and ends with a line of JSON.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import median_of, result_of
from utils import ROOT

NUM_EXAMPLES, VOCAB_SIZE, MODEL_MAX_LENGTH = 52_000, 16_000, 512


def make_data(data_path: str, path: Path) -> list[str]:
    """Save NUM_EXAMPLES examples to path and return their texts."""
    from alpaca.examples import load_examples
    from utils import format_prompt, jdump

    given = load_examples(data_path)
    examples = [
        {**given[i % len(given)], "output": f"{given[i % len(given)]['output']} ({i})"} for i in range(NUM_EXAMPLES)
    ]
    jdump(examples, path)
    return [format_prompt(e["instruction"], e["input"]) + e["output"] for e in examples[: len(given)]]


def make_tokenizer(kind: str, texts: list[str], folder: Path) -> None:
    """Train a tokenizer of LLaMA's or OPT's kind and save it as from_pretrained loads it."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    from benchmarks.training import SPECIAL_TOKENS, save_tokenizer
    from configs.tiny_models import byte_level_tokenizer

    if kind == "OPT":
        save_tokenizer(byte_level_tokenizer(SPECIAL_TOKENS, VOCAB_SIZE, texts), folder)
        return
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    # While training only: no word holds a space but at its start, or both letters and punctuation, as in LLaMA's.
    splits = [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Punctuation("contiguous")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), *splits, pre_tokenizers.Digits(individual_digits=True)]
    )
    all_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=[*SPECIAL_TOKENS, *all_bytes], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    saved = json.loads(tokenizer.to_str())
    saved["pre_tokenizer"] = None
    saved["added_tokens"] = saved["added_tokens"][: len(SPECIAL_TOKENS)]
    tokenizer = Tokenizer.from_str(json.dumps(saved))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    save_tokenizer(tokenizer, folder)


def one_call_per_text(data_path: str, tokenizer) -> tuple[list[list[int]], list[int]]:
    from alpaca.examples import load_examples
    from utils import format_prompt

    input_ids, source_lens = [], []
    for example in load_examples(data_path):
        source = format_prompt(example["instruction"], example["input"])
        input_ids.append(tokenizer(source + example["output"] + tokenizer.eos_token, truncation=True).input_ids)
        source_lens.append(len(tokenizer(source, truncation=True).input_ids))
    return input_ids, source_lens


def measure(way: str, data_path: str, folder: str) -> dict:
    """Do it once in this process; a hash of all token ids and prompt lengths is part of the result."""
    import hashlib

    import numpy as np

    import train

    tokenizer = train.load_tokenizer(folder, None, MODEL_MAX_LENGTH)[0]
    start = time.perf_counter()
    if way == "one call per text":
        input_ids, source_lens = one_call_per_text(data_path, tokenizer)
    else:
        dataset = train.SupervisedDataset(data_path, tokenizer)
    seconds = time.perf_counter() - start
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if way != "one call per text":
        input_ids, source_lens = dataset.input_ids, dataset.source_lens
    lengths = np.array([len(ids) for ids in input_ids])
    everything = (np.concatenate(input_ids), lengths, np.array(source_lens))
    digest = hashlib.sha256(b"".join(array.astype(np.int64).tobytes() for array in everything)).hexdigest()
    return {"sec": seconds, "peak_gb": peak_bytes / 1e9, "sha256": digest, "mean_tokens": float(lengths.mean())}


def repeat(repeats: int, way: str, data_path: Path, folder: Path) -> dict:
    """The median of several processes."""
    command = [sys.executable, "-m", "benchmarks.tokenization", "--measure", way, str(data_path), str(folder)]
    return {"way": way, **median_of([result_of(command) for _ in range(repeats)], "sec")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", default=str(ROOT / "alpaca_data.json"))
    parser.add_argument("--tokenizer", help="a tokenizer's folder, in place of the two that are made")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", nargs=3, help="used by the benchmark itself")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
        return
    import tokenizers
    import transformers

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.json"
        texts = make_data(arguments.data_path, data)
        folders = {"given": Path(arguments.tokenizer)} if arguments.tokenizer else {}
        for kind in () if arguments.tokenizer else ("LLaMA", "OPT"):
            folders[kind] = Path(folder) / kind
            make_tokenizer(kind, texts, folders[kind])
        for kind, tokenizer in folders.items():
            for way in ("one call per text", "SupervisedDataset"):
                rows.append({"tokenizer": kind, **repeat(arguments.repeats, way, data, tokenizer)})
                if rows[-1]["sha256"] != next(row["sha256"] for row in rows if row["tokenizer"] == kind):
                    raise SystemExit(f"{kind}, {way}: not the ids and labels of one call per text")
    cores = len(os.sched_getaffinity(0))
    print(
        f"{NUM_EXAMPLES:,} examples from {Path(arguments.data_path).name}; {platform.machine()}, {cores} cores, "
        f"tokenizers {tokenizers.__version__}, transformers {transformers.__version__}, medians of {arguments.repeats}"
    )
    print("tokenizer  way                 tokens each  seconds      (min-max)  peak GB")
    for row in rows:
        spread = "{:.2f}-{:.2f}".format(*row["spread"])
        print(
            f"{row['tokenizer']:<11}{row['way']:<20}{row['mean_tokens']:>11.1f}{row['sec']:>9.2f}{spread:>15}"
            f"{row['peak_gb']:>9.2f}"
        )
    print(json.dumps({"data": Path(arguments.data_path).name, "rows": rows}))


if __name__ == "__main__":
    main()
