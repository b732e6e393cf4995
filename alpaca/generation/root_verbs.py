"""The root verb and direct object of an instruction: "Write a short story about a fox." is ("write", "story").

The measure of variety of Self-Instruct (arXiv 2212.10560): what does an instruction ask to do, and with what?
Nothing is downloaded: HanTa's English model, which comes with the package, tags each word's part of speech, and the
rules below read verb and object off the tags.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import functools
import itertools
import multiprocessing
import re
import typing

MANY_INSTRUCTIONS = 4000  # for fewer, starting processes takes longer than it saves
Pair = tuple[str | None, str | None]  # verb and object, both lower-case lemmas; None for what there is not


class Token(typing.NamedTuple):
    word: str  # as written
    lemma: str
    tag: str  # of the CLAWS5 tagset, in which the British National Corpus is tagged


def root_verbs(instructions: list[str], num_processes: int = 1) -> list[Pair]:
    """The pair of each instruction; several processes share the work where there are many."""
    if num_processes == 1 or len(instructions) < MANY_INSTRUCTIONS:
        return [root_verb(instruction) for instruction in instructions]
    with multiprocessing.Pool(num_processes) as pool:
        return pool.map(root_verb, instructions, chunksize=1000)


def root_verb(instruction: str) -> Pair:
    """The pair of the first request that has an object, else of the first request.

    A request is an imperative ("Name three rivers."), a polite question ("Could you name three rivers?"), a wish ("I
    need a name.") or a question with a full verb ("Which rivers cross Ghana?"); "Is Mali a river?" has no root verb.
    """
    first: Pair = None, None
    for sentence, may_be_material in split_sentences(instruction):
        if first[0] and may_be_material:
            break
        verb, obj = _request(_tag(sentence)) or (None, None)
        if obj:
            return verb, obj
        if first[0] is None:
            first = verb, None
    return first


MAX_CHARACTERS, MAX_SENTENCES = 2000, 4  # a request further back follows so much text that it is part of the material
QUOTATION = '"X"'  # stands for any quoted text or code: that is material, and may hold verbs and full stops

_QUOTED = re.compile(r"""["“][^"“”]*["”]|(?<!\w)['‘][^'‘’]*['’](?!\w)|`[^`]*`|\b\w+\([^()]*\)""")
_LIST_MARK = re.compile(r"^\s*(?:\(?(?:\d+|[a-z])[.)]|[-*•#>]+)\s*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"""(?<=[.!?])\s+(?=["(]?[A-Z\d])|(?<=;)\s+|(?P<material>\s*(?::(?=\s|$)|\n)\s*)""")


def split_sentences(text: str) -> list[tuple[str, bool]]:
    """The first sentences, each with whether a colon or a new line before it may have opened material.

    >>> split_sentences('Fix the spelling. Write "Ok?" (in one line) below: He go. She come.')
    [('Fix the spelling.', False), ('Write "X" below', False), ('He go.', True), ('She come.', True)]
    """
    text = _QUOTED.sub(QUOTATION, text.strip()[:MAX_CHARACTERS].replace("’", "'"))
    text = re.sub(r"\s*\([^()]*\)", "", text)
    sentences, start, material = [], 0, False
    for end in [*_SENTENCE_END.finditer(text), None]:
        sentence = _LIST_MARK.sub("", text[start : end.start() if end else None])
        if sentence:
            sentences.append((sentence, material))
        if end is None or len(sentences) == MAX_SENTENCES:
            break
        start, material = end.end(), material or end["material"] is not None
    return sentences


# --- the rules -------------------------------------------------------------------------------------------------------

_WORD = re.compile(
    r"""["]X["] | [A-Za-z]+(?=n't\b) | n't\b | '(?:s|re|ve|ll|d|m)\b   # quotation, don't, Ohm's, I'd
      | \d+(?:,\d{3})+ | \w+(?:[-./&]\w+)*[+#]* | [^\w\s]              # 52,000, five-step, and/or, C++, punctuation
    """,
    re.VERBOSE,
)
MAX_WORDS = 60  # of a sentence; root verb and object stand before that
MAX_LETTERS = 30  # of a word: the tagger's time for an unknown one grows with the square of its length

# The tagger learnt from texts of before 1994. In place of a newer word, or use of a word, it sees an old one like it.
STAND_INS = {
    QUOTATION.lower(): "London",
    "prompt": "hint",
    "prompts": "hints",
    "blog": "newspaper",
    "blogs": "newspapers",
    "api": "program",
    "apis": "programs",
}

BASE_VERB = {"VVB", "VVI", "VDB", "VDI", "VHB", "VHI"}
FINITE_VERB = {"VVZ", "VVD", "VBB", "VBZ", "VBD", "VHB", "VHZ", "VHD", "VDZ", "VDD", "VM0"}
NOUN = {"NN0", "NN1", "NN2", "NN", "UNC"}  # UNC: unclassified, mostly words newer than the model
NAME = {"NP0", "ZZ0"}
ADJECTIVE = {"AJ0", "AJC", "AJS", "ORD"}
PARTICIPLE = {"VVG", "VVN", "VVD"}
DETERMINER = {"AT0", "DPS", "DT0", "CRD"}
WH = {"AVQ", "PNQ", "DTQ"}

OPENERS = {"please", "kindly", "now", "then", "next", "first", "second", "finally", "also", "and", "just", "so", "hi"}
WISHES = {"need", "want", "like", "love", "have", "require", "ask", "task"}  # I need (you to) ..., you are asked to ...
GIVING = {"give", "tell", "show", "teach", "send", "offer", "write", "make", "suggest"}  # may take two objects


@functools.cache
def _tagger():
    from HanTa.HanoverTagger import HanoverTagger

    return HanoverTagger("morphmodel_en.pgz")


def _tag(sentence: str) -> list[Token]:
    words = [word[:MAX_LETTERS] for word in _WORD.findall(sentence)[:MAX_WORDS]]
    tags = _tagger().tag_sent([STAND_INS.get(word.lower(), word) for word in words], taglevel=0) if words else []
    tokens = []
    for word, tag in zip(words, tags, strict=True):
        if word in {"how", "why"}:
            tag = "AVQ"
        elif not any(map(str.isalnum, word)) and tag in NOUN | NAME:
            tag = "PUN"  # = and the like
        tokens.append(Token(word, _lemma(word.lower(), tag), tag))
    return tokens


@functools.cache  # the tagger has none, and lemmas would take as long as tags
def _lemma(word: str, tag: str) -> str:
    """The tagger's lemma, mended where it takes a plural apart wrongly: dependencie, mitosi."""
    if tag in NOUN and word.endswith(("sis", "ss", "us")):
        return word
    lemma = _tagger().analyze(word, pos=tag)[0].lower()
    if tag in NOUN and word.endswith("ies") and lemma.endswith("ie"):
        return max(lemma, lemma[:-2] + "y", key=_log_probability)
    return lemma


@functools.cache
def _log_probability(word: str) -> float:
    return max((float(log_p) for _, log_p in _tagger().tag_word(word)), default=float("-inf"))


@functools.cache
def _can_be_base_verb(word: str) -> bool:
    return any(tag in BASE_VERB for tag, _ in _tagger().tag_word(word, cutoff=8))


def _request(tokens: list[Token], after_comma: bool = False) -> Pair | None:
    """The pair of a request that starts at the first token, or after a phrase in front ("Given a list, ...")."""
    in_front = {"PUN", "PUQ", "PUL", "PUR", "ITJ", "CJC", "AV0"}
    tokens = list(itertools.dropwhile(lambda t: t.word.lower() in OPENERS or t.tag in in_front, tokens))
    if not tokens:
        return None
    first, second = tokens[0], tokens[1] if len(tokens) > 1 else Token("", "", "")
    if _starts_imperative(tokens, after_comma):
        return _from_verb(tokens, 0)
    if first.tag in WH or (first.tag in {"PRP", "PRF"} and second.tag in WH):
        return _question(tokens) if tokens[-1].word == "?" or not after_comma else None
    pair = None
    if first.tag in {"VDB", "VDZ", "VDD", "VM0"}:  # Can you ...? Does it ...?
        pair = _from_base_verb(tokens, 1)
    elif first.word.lower() in {"i", "we", "you"}:
        pair = _wish(tokens)
    if pair or after_comma or first.tag[:2] in {"VB", "VD"}:  # Is it ...?
        return pair
    for i, token in enumerate(tokens[1:], start=1):
        if token.tag == "TO0" and tokens[i - 1].tag in {"VBZ", "VBD"}:  # Your task is to ...
            return _from_base_verb(tokens, i)
        if token.word == "," and (pair := _request(tokens[i + 1 :], after_comma=True)):
            return pair
    return None


def _starts_imperative(tokens: list[Token], after_comma: bool) -> bool:
    first, *following = tokens[:4]
    tags = [token.tag for token in following] + [""] * 3
    if after_comma and (tags[0] in {"", "PUN"} or (tags[0] == "CJC" and tags[2] not in DETERMINER)):
        return False  # Using the words run, jump, and swim, ...
    if first.tag in BASE_VERB:
        return not (first.tag[:2] in {"VD", "VH"} and tokens[-1].word == "?")  # Do they ...?
    if not _can_be_base_verb(first.word.lower()):
        # Format the text. Brainstorm five ideas. No noun stands like that before a determiner.
        return first.tag in {"NN1", "UNC", "NP0"} and tags[0] in DETERMINER
    if first.tag in ADJECTIVE | PARTICIPLE:  # complete the table; set a goal; come up with an idea
        return tags[0] in DETERMINER | {"PNP", "AVP"} or (first.tag not in ADJECTIVE and tags[0] == "PRP")
    if tags[0] == "VVD" and tags[1] in NOUN:  # strip repeated entries
        return True
    return first.tag in NOUN | NAME and tags[0] not in FINITE_VERB | {"PRF", "POS", ""}


def _from_base_verb(tokens: list[Token], start: int) -> Pair | None:
    """The pair of the first base form of a verb at or behind start."""
    for i in range(start, len(tokens)):
        has_to = tokens[i].lemma == "have" and i + 1 < len(tokens) and tokens[i + 1].tag == "TO0"
        if tokens[i].tag in BASE_VERB and not has_to:
            return _from_verb(tokens, i)
    return None


def _wish(tokens: list[Token]) -> Pair | None:
    """I need a recipe. I would like you to draft a letter. You should sort the names."""
    for i, token in enumerate(tokens[1:8], start=1):
        if token.tag == "TO0" and any(t.lemma in WISHES for t in tokens[1:i]):
            return _from_base_verb(tokens, i)
        if token.lemma in {"need", "want"} and (obj := _object(tokens, i + 1, token.lemma)):
            return token.lemma, obj
        if tokens[0].word.lower() == "you" and token.word in {"must", "should"}:
            return _from_base_verb(tokens, i)
    return None


def _question(tokens: list[Token]) -> Pair | None:
    """How do I make a cake? Which rivers cross Ghana? What steps should we take?"""
    k = next((i for i, token in enumerate(tokens) if token.tag[0] == "V" or token.tag == "TO0"), len(tokens))
    if k == len(tokens) or tokens[k].tag[:2] == "VB":
        return None
    if tokens[k].tag in {"VM0", "TO0"} or tokens[k].tag[:2] == "VD":
        pair = _from_base_verb(tokens, k + 1)
        if pair and pair[1] is None and tokens[0].tag == "DTQ":
            return pair[0], _noun_phrase(tokens[1:k], 0)[0]
        return pair
    return tokens[k].lemma, _object(tokens, k + 1, tokens[k].lemma)


def _from_verb(tokens: list[Token], i: int) -> Pair | None:
    verb, start = tokens[i].word.lower(), i + 1
    following = [token.word.lower() for token in tokens[start : start + 1]]
    if (verb == "let" and following in (["'s"], ["us"])) or (verb == "help" and following in (["me"], ["us"])):
        return _from_base_verb(tokens, start + 1) or (verb, None)
    if len(tokens) > start + 1 and tokens[start].tag == "CJC" and _can_be_base_verb(tokens[start + 1].word.lower()):
        start += 2  # compare and contrast A and B: the object belongs to both
    return verb, _object(tokens, start, verb)


def _object(tokens: list[Token], start: int, verb: str) -> str | None:
    """The head noun of the noun phrase that stands right behind a verb."""
    i = start
    while i < len(tokens) and (tokens[i].tag in {"AVP", "AV0"} or tokens[i].word in {"down", "out", "up"}):
        i += 1  # write down the names
    if i < len(tokens) and tokens[i].tag == "PNP":  # tell me a joke
        if verb not in GIVING and tokens[i].word.lower() not in {"me", "us"}:
            return None
        i += 1
    if i + 1 < len(tokens) and tokens[i].word == "at" and tokens[i + 1].word in {"least", "most"}:
        i += 2
    elif i < len(tokens) and tokens[i].word in {"in", "with"}:  # explain in simple terms the rule of three
        _, i = _noun_phrase(tokens, i + 1)
        if i == len(tokens) or tokens[i].tag not in {"AT0", "DPS"}:
            return None
    head, end = _noun_phrase(tokens, i)
    if head and verb in GIVING and end < len(tokens) and tokens[end].tag in DETERMINER and tokens[end].word != "that":
        head = _noun_phrase(tokens, end)[0] or head  # give the child a name
    return head


def _noun_phrase(tokens: list[Token], start: int) -> tuple[str | None, int]:
    """The lemma of the head of the noun phrase that starts there (None for a name), and where the phrase ends."""
    nouns, tags = [], [token.tag for token in tokens] + ["", "", ""]
    i = start
    while i < len(tokens):
        word, lemma, tag = tokens[i]
        before = tags[i - 1] if i > start else ""
        if nouns and word.endswith("ing") and tags[i + 1] in DETERMINER | WH | {"PNP", "CJT", "AV0"}:
            break  # a text explaining what ...
        if nouns and word.endswith("ing") and i + 1 < len(tokens) and tokens[i + 1].word == "with":
            break  # a text beginning with ...
        if tag in NOUN and not (word.isupper() and i == start):  # TCP is a name, a TCP connection is none
            nouns.append(lemma)
        elif tag in BASE_VERB and not nouns and before in DETERMINER | ADJECTIVE:
            nouns.append(word.lower())  # the tweet
        elif tag == "POS" or (word == "'" and nouns):  # the reader's question
            nouns = []
        elif tag in DETERMINER and tags[i + 1] == "PRF" and not nouns:  # one of the reasons
            i += 1
        elif tag in NAME | NOUN or word in "\"'":
            pass  # the word "X", the river Niger: the head is the noun
        elif nouns:
            break
        elif tag in DETERMINER | ADJECTIVE or (word == "that" and tags[i + 1] == "NN1"):
            pass
        elif tag in PARTICIPLE | {"AV0", "AVP"} and tags[i + 1] in NOUN | ADJECTIVE | PARTICIPLE | DETERMINER | {"AVP"}:
            pass  # the following text; a very short text; a fully fleshed out text
        elif (tag == "CJC" or word in ",/") and before in ADJECTIVE and tags[i + 1] in ADJECTIVE | PARTICIPLE:
            pass  # a short and simple text
        else:
            break
        i += 1
    if not nouns:
        # "a metric to ...": only a noun can end a phrase with "a", whatever the tagger says.
        singular = i > start + 1 and tokens[start].word in {"a", "an"} and tags[i - 1] in ADJECTIVE
        return (tokens[i - 1].lemma if singular else None), i
    if tags[i] in FINITE_VERB and tags[i] != "VVD":  # the impact phones have; that is, the object ends before "phones"
        return (nouns[0] if tags[start] in DETERMINER else None), i
    return nouns[-1], i
