"""What servers send for an answer, whole or as a stream, read as it comes: content in parts, reasoning before it."""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import dataclasses
import json
import re
import typing
from collections.abc import AsyncIterator

from alpaca.inference.refusals import raise_error_under_status_200
from utils import printable, without_secrets

if typing.TYPE_CHECKING:
    import httpx2

# Servers call a response that was cut off after the last token allowed by these names; here it is "length".
CUT_OFF = ("length", "max_tokens", "max_length", "model_length", "max_output_tokens")
# What begins and ends the reasoning that servers leave in the text; the last four are Gemini's, Magistral's, Seed's and
# gpt-oss's.
REASONING_TAGS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "[THINK]": "[/THINK]",
    "<seed:think>": "</seed:think>",
    "<|channel|>analysis<|message|>": "<|channel|>final<|message|>",
}
# Some chat templates open the block in the prompt, and the response holds its end alone, on a line of its own.
UNOPENED_END = re.compile(r"</think>\s*(\n|$)")


@dataclasses.dataclass
class Answer:
    """Completions as (text, finish reason), in the order of the prompts, and what the server says of their cost."""

    completions: list[tuple[str, str | None]]
    api: str
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None


class UnusableAnswer(Exception):
    """A server's answer that is not what its API promises, such as a body that is no JSON. Asking again may help."""


def read_answer(body: str, arguments: dict, url: str) -> Answer:
    """The completions in the body of the answer to a request.

    Raises Refusal for an error in their place, and UnusableAnswer where there is neither.
    """
    try:
        reply = json.loads(body.removeprefix("\ufeff"))
        raise_error_under_status_200(reply, url)
        choices = sorted(reply["choices"], key=lambda choice: choice.get("index") or 0)
        if not choices or not all(choice.keys() & {"message", "text"} for choice in choices):
            raise KeyError("choices")
        completions = [(without_reasoning(text_of(choice)), finish_reason_of(choice)) for choice in choices]
        usage = reply.get("usage") or {}
        num_tokens = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")]
        model = printable(without_secrets(reply.get("model") or arguments["model"]))[:200]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        excerpt = " ".join(without_secrets(body[:2000])[:200].split())
        raise UnusableAnswer(f"the server's answer is no completion: {excerpt!r}") from None
    api = "chat" if "messages" in arguments else "completions"
    return Answer(completions, api, model, *(n if type(n) is int and 0 <= n < 2**53 else None for n in num_tokens))


def text_of(choice: dict) -> str:
    """The text of a choice of either API, or of a stream's piece of one; "" where there is none, as from a chat model
    that ran out of tokens while it reasoned. A model that declines in a field of its own has answered.

    >>> parts = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Red"}, "."]
    >>> text_of({"message": {"content": parts}}), text_of({"message": {"reasoning": "Hm."}}), text_of({"text": None})
    ('Red.', '', '')
    """
    message = choice.get("delta") or choice.get("message")
    content = (message.get("content") or message.get("refusal")) if message else choice.get("text")
    parts = content if isinstance(content, list) else [content]
    parts = [part if isinstance(part, dict) else {"text": part} for part in parts]
    texts = [part.get("text") for part in parts if part.get("type", "text") in ("text", "output_text")]
    # JSON can carry half a surrogate pair, which no file can.
    return "".join(text for text in texts if text).encode("utf-8", "replace").decode()


def finish_reason_of(choice: dict) -> str | None:
    reason = choice.get("finish_reason")
    return "length" if str(reason).lower() in CUT_OFF else reason


def without_reasoning(text: str) -> str:
    """The answer behind the reasoning that some models begin with; a text without such a beginning as it is.

    A block without an end is all reasoning: the answer has not begun.

    >>> without_reasoning("<think>\\nVerdict: 2?\\n</think>\\n\\nVerdict: 1"), without_reasoning("<think>Well, ")
    ('Verdict: 1', '')
    """
    start = text.lstrip()
    for begin, end in REASONING_TAGS.items():
        if start.startswith(begin):
            return start.partition(end)[2].lstrip()
    unopened = UNOPENED_END.search(text)
    return text[unopened.end() :].lstrip() if unopened and "<think>" not in text[: unopened.start()] else text


def may_become_reasoning(text: str) -> bool:
    """Whether a text, of a stream, is the first characters of a tag, so that what it is will be known later."""
    start = text.strip()
    return any(tag.startswith(start) and tag != start for tag in REASONING_TAGS)


# ---- Streams ----


async def read_stream(
    response: "httpx2.Response", arguments: dict, told: dict | None = None
) -> AsyncIterator[tuple[str, str]]:
    """The response so far, reasoning included, longer each time, and why it ended, "" before it has.

    told is filled with what the events tell of model and usage.

    An event is a line with "data:" and JSON; comments, names and empty events are passed over, "[DONE]" or a finish
    reason ends the response. A body without events is the whole answer, by a server that does not stream. Raises
    Refusal for an error in the stream, and UnusableAnswer where it ends before the response does.
    """
    import httpx2

    text, other_lines, is_ended, url = "", [], False, str(response.url)
    try:
        async for line in _lines(response.aiter_bytes()):
            if not line.startswith(b"data:"):
                other_lines.append(line)
                continue
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                is_ended = True
                break
            event = json.loads(data) if data else {}
            raise_error_under_status_200(event, url)
            if told is not None:
                told.update({key: event[key] for key in ("model", "usage") if event.get(key)})
            for choice in (event.get("choices") or [])[:1]:
                reason = choice.get("finish_reason") or ""
                is_ended = is_ended or bool(reason)
                is_whole = not choice.keys() & {"delta", "text"}
                if piece := text_of(choice):
                    text = piece if is_whole else text + piece
                if piece or reason:
                    yield text, reason
        if not (is_ended or text):
            answer = read_answer(b"\n".join(other_lines).decode("utf-8", "replace"), arguments, url)
            yield answer.completions[0][0], answer.completions[0][1] or ""
        elif not is_ended:
            raise UnusableAnswer("the stream ended before the response did")
    except httpx2.HTTPError as error:
        raise UnusableAnswer(f"the connection broke: {error or type(error).__name__}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        excerpt = without_secrets(line[:2000].decode("utf-8", "replace"))[:200]
        raise UnusableAnswer(f"an event of the stream is no piece of a completion: {excerpt!r}") from None
    finally:
        await response.aclose()


async def read_streamed_answer(response: "httpx2.Response", arguments: dict) -> Answer:
    """The whole answer to one prompt by a server that streams unasked, or whose model does nothing else."""
    told: dict = {}
    text, reason = "", ""
    async for text, reason in read_stream(response, arguments, told):  # noqa: B007 (the last)
        pass
    if not (text or reason):
        raise UnusableAnswer("the stream has no response")
    choice = {"index": 0, "text": text, "finish_reason": reason or None}
    return read_answer(json.dumps({**told, "choices": [choice]}), arguments, str(response.url))


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines in a body that comes in chunks. Only "\\n" ends one: httpx2, for text, also splits at what may stand
    within a JSON string."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.strip()
    yield rest.strip()
