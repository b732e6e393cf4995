"""Token ids and labels: batched calls give what the definition says, for any tokenizer and any text."""

import json
import re

import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import train
from configs.tiny_models import TEXT
from utils import format_prompt, jdump

TRAINING_TEXT = [*TEXT, "Response:Paris Response:12 :a a:b (a):(b)  two  spaces\n\nlines\n"] * 3


def train_bpe(pre_tokenizer, decoder, normalizer=None, **options):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", **options))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet() if isinstance(pre_tokenizer, pre_tokenizers.ByteLevel) else []
    special = ["<unk>", "<s>", "</s>"] + ([f"<0x{i:02X}>" for i in range(256)] if options else [])
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    return tokenizer


def with_bos(tokenizer, template="<s> $A"):
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    return tokenizer


def metaspace(scheme):
    return pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)


def llama_of_2023():
    prepend = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = prepend
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    return tokenizer


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), metaspace("first")
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    return tokenizer


def words_looked_up_first(pre_tokenizer):
    """As Llama 3: a whole word of the vocabulary is taken as it is, whatever the merge rules make of it."""
    trained = train_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel())
    state = json.loads(trained.to_str())
    for word in (":Paris", "Response:", "ĊResponse:", ":Ã©", "12"):
        state["model"]["vocab"].setdefault(word, len(state["model"]["vocab"]))
    state["model"]["ignore_merges"] = True
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.pre_tokenizer = pre_tokenizer
    return tokenizer


MAKERS = {
    "byte level": lambda: with_bos(train_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel())),
    "byte level without bos": lambda: train_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()),
    "byte level with lower case": lambda: with_bos(
        train_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel(), normalizers.Lowercase())
    ),
    "metaspace first": lambda: with_bos(train_bpe(metaspace("first"), decoders.Metaspace())),
    "metaspace always": lambda: with_bos(train_bpe(metaspace("always"), decoders.Metaspace())),
    "LLaMA of 2023": lambda: with_bos(llama_of_2023()),
    "unigram": lambda: with_bos(unigram()),
    "words looked up first": lambda: with_bos(words_looked_up_first(pre_tokenizers.ByteLevel(add_prefix_space=False))),
    "words looked up first, without a border before the colon": lambda: with_bos(
        words_looked_up_first(
            pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(" ", "merged_with_next"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            )
        )
    ),
    "text end added": lambda: with_bos(
        train_bpe(pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()), "<s> $A </s>"
    ),
}
ADD_EOS = {"text end added", "ByT5"}


@pytest.fixture(scope="module", params=MAKERS)
def tokenizer(request):
    backend = MAKERS[request.param]()
    backend.add_special_tokens([AddedToken("</s>", normalized=False, special=True)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=100
    )
    fast.maker = request.param
    return fast


def read_alone(text, tokenizer):
    """The text's ids as the contract counts them: without an EOS that is not in the text, cut off at the limit."""
    ids = tokenizer(text).input_ids
    if tokenizer.maker in ADD_EOS and (tokenizer.maker != "ByT5" or not text.endswith("</s>")):
        assert ids.pop() == tokenizer.eos_token_id
    return ids[: tokenizer.model_max_length]


def assert_equals_the_definition(sources, targets, tokenizer):
    """One text at a time gives what the batched calls give."""
    input_ids, source_lens = train.tokenize(sources, targets, tokenizer)
    assert len(input_ids) == len(source_lens) == len(sources)
    for ids, source_len, source, target in zip(input_ids, source_lens, sources, targets, strict=True):
        assert ids.tolist() == read_alone(source + target, tokenizer), (source, target)
        assert source_len == len(read_alone(source, tokenizer)), (source, target)


def test_typical_responses_equal_the_definition(tokenizer):
    responses = ["Paris.", "12", ":b", "(b)", "", " spaced", "\nline", "a" * 300, "é🙂", "B and b", "</s>", "2 2"]
    sources = [format_prompt("Name it:", "x" * length) for length in (0, 5, 80, 300) for _ in responses]
    assert_equals_the_definition(sources, [r + "</s>" for r in responses] * 4, tokenizer)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.text("ab:12 \nR()", max_size=30)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(examples=st.lists(st.tuples(text, text), min_size=1, max_size=5))
def test_any_text_equals_the_definition(tokenizer, examples):
    sources = [f"{instruction}\nResponse:" for instruction, _ in examples]
    assert_equals_the_definition(sources, [response + "</s>" for _, response in examples], tokenizer)


def test_many_examples_keep_their_order(tokenizer, monkeypatch):
    monkeypatch.setattr(train, "CHUNK", 3)
    sources = [format_prompt(f"Name number {i}.") for i in range(10)]
    assert_equals_the_definition(sources, [f"{i}</s>" for i in range(10)], tokenizer)


def test_a_tokenizer_written_in_python_that_ends_texts_without_eos():
    tokenizer = transformers.ByT5Tokenizer(model_max_length=400)
    tokenizer.maker = "ByT5"
    assert_equals_the_definition([format_prompt("Say hi.")] * 3, ["Hi.</s>", "</s>", "a</s></s>"], tokenizer)


def test_a_target_has_every_label_and_one_eos(tokenizer, tmp_path):
    tokenizer.model_max_length = 1000
    jdump([{"instruction": "Name it.", "input": "", "output": " Paris."}], tmp_path / "data.json")
    [item] = train.SupervisedDataset(str(tmp_path / "data.json"), tokenizer)
    tokenizer.model_max_length = 100
    labels = item["labels"][item["labels"] != -100].tolist()
    assert labels.count(tokenizer.eos_token_id) == 1
    assert labels[-1] == tokenizer.eos_token_id
    text = tokenizer.decode(labels, skip_special_tokens=True)
    assert re.sub("[ ▁]", "", text).lower() == "paris."  # not all of them have a decoder


def test_the_tokenizer_is_saved_without_a_length_limit(tokenizer, tmp_path):
    tokenizer("Something else.", truncation=True)
    train.tokenize(["Say hi:"] * 2, ["Hi.</s>", "12</s>"], tokenizer)
    tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["truncation"] is None


@pytest.mark.parametrize("special_tokens", [("<s>", "</s>", "<unk>"), ("", "", "")], ids=["usual", "empty names"])
def test_a_llama_checkpoint_with_a_sentencepiece_model_only_begins_texts_as_in_2023(special_tokens, tmp_path):
    import sentencepiece

    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(TRAINING_TEXT), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "tokenizer"), vocab_size=400, model_type="bpe",
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    options = dict(zip(("bos_token", "eos_token", "unk_token"), special_tokens, strict=True))
    options["tokenizer_class"] = "LlamaTokenizer"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(options))
    tokenizer, num_new_tokens = train.load_tokenizer(str(tmp_path), None, 100)
    assert num_new_tokens == 1  # [PAD]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    ids = tokenizer("Name three colours.</s>").input_ids
    assert (ids[0], ids[-1]) == (1, 2)
    tokenizer.maker = "LLaMA"
    assert_equals_the_definition([format_prompt("Say hi.")] * 3, ["Hi.</s>", "12</s>", "</s>"], tokenizer)
