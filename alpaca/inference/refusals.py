"""What a server says when it does not grant a request: its words, the wait it asks for, and what they mean.

Servers put the same news into different shapes: an object, a list of objects, a text, an error within an error, and
some of it under status 200. Here all of them become a Refusal.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import email.utils
import json
import re
import time
import typing
from collections.abc import Mapping

from utils import UserError, without_secrets

# The second line: of text-generation-inference, Anthropic, DeepSeek and Alibaba, and, of a limit per minute, Groq.
TOO_LONG = re.compile(
    r"context[ _](length|size|window)|maximum (model |input |prompt |sequence )?length|too long|"
    r"max_new_tokens\W.{0,20}<=|maximum allowed number of output|range of max_tokens|request too large for model|"
    r"reduce (your|the) (prompt|length)|max_(completion_)?tokens\W.{0,80}(too large|at most|exceed|greater|less than)",
    re.IGNORECASE | re.DOTALL,
)
# The words of Azure, OpenAI, OpenRouter, Gemini, Anthropic, DeepSeek and Alibaba for a prompt that they do not answer.
FILTERED = re.compile(
    r"content[ _-]?(filter|management policy|policy)|ResponsibleAI|prohibited_content|content exists risk|"
    r"data_?inspection_?failed|inappropriate content|\bflagged\b|\bmoderation\b|safety (system|filter|polic)",
    re.IGNORECASE,
)
UNKNOWN_MODEL = re.compile(
    r"\bmodels?\b.*(not found|not exist|n't exist|deprecated|retired)|(no such|unknown|invalid) model|pinned to|"
    r"model_not_found",
    re.IGNORECASE,
)
NO_QUOTA = re.compile(r"insufficient_quota|billing|exceeded your current quota", re.IGNORECASE)
# Not the value is refused, such as a temperature of 3, but the parameter, or any value other than the model's own.
UNSUPPORTED = re.compile(
    r"not support|unsupported|only the default|cannot both|not both|only one|deprecated|no longer|unknown|unrecognized|"
    r"unexpected|not (allowed|permitted|accepted|available)|extra_forbidden|cannot find",
    re.IGNORECASE,
)
WAIT = re.compile(
    r"(?:try again in|retry in|retry after|retryDelay\W+)\s*((?:\d+(?:\.\d+)?\s*[a-z]+\s*)+)", re.IGNORECASE
)
SECONDS = {"ms": 0.001, "mil": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


class Refusal(Exception):
    """A request that was not granted.

    status: the HTTP status, or the one that would have fitted; message: the server's words on one line of bounded
    length, without the key, which some servers repeat; code and param: what the server calls the error, and the
    parameter that it names, or ""; wait_sec: the wait that it asks for, or 0.0.
    """

    def __init__(self, status: int, body: typing.Any, url: str, headers: Mapping[str, str] | None = None):
        everything = body if isinstance(body, str) else json.dumps(body)
        if isinstance(body, str):
            with contextlib.suppress(ValueError, RecursionError):
                body = json.loads(body)
        details = _details(body)
        self.status, self.url = status, url
        self.code, self.param = (str(details.get(key) or "") for key in ("code", "param"))
        words = details.get("message") or details.get("detail") or everything
        metadata = details.get("metadata")  # OpenRouter: the words of the server behind it
        raw = metadata.get("raw") if isinstance(metadata, dict) else None
        words = " ".join(f"{words} {raw or ''}".split())
        self.message = f"{status}: {without_secrets(words)[:300]}"
        self.wait_sec = retry_after_sec(headers or {}) or wait_in_words_sec(everything)
        self._everything = everything
        super().__init__(self.message)

    @property
    def is_passing(self) -> bool:
        """Is it worth asking again later? What the answer says of waiting decides, before words about a quota do."""
        if self.status == 429:
            return self.wait_sec > 0 or not NO_QUOTA.search(self._everything)
        return self.status in (408, 409) or (self.status >= 500 and self.status != 501)

    @property
    def is_too_long(self) -> bool:
        """Do prompt and response not fit together? What is to be generated may be too much, or the prompt alone."""
        return bool(TOO_LONG.search(f"{self.code} {self.message}"))

    @property
    def is_about_content(self) -> bool:
        """Is it this prompt that is refused, by what it says, while others would be answered?"""
        return self.status in (400, 403, 422, 451) and bool(FILTERED.search(self._everything))

    @property
    def is_unknown_model(self) -> bool:
        """Does the server say that there is no such model?"""
        return self.status in (400, 404, 422) and bool(UNKNOWN_MODEL.search(f"{self.code} {self.message}"))

    def in_one_line(self, model_name: str) -> str:
        """What to tell the user where nothing helps."""
        url, message = self.url, self.message
        if self.is_unknown_model:
            if model_name == "text-davinci-003":
                return (
                    f"{url} has no model text-davinci-003, which OpenAI retired in January 2024. Name another one with "
                    "--model_name, or set OPENAI_BASE_URL to a server of your own (vLLM, llama.cpp, Ollama, "
                    "transformers serve) and name its model."
                )
            return f"{url} has no model {model_name!r} ({message}). Name another one with --model_name."
        if "v1/responses" in message:
            return f"{url} offers {model_name!r} through the Responses API only ({message}). Name another model."
        if self.status == 401:
            return f"{url} does not accept the key in OPENAI_API_KEY ({message})."
        if self.status == 403:
            return f"{url} denies permission ({message})."
        if self.status in (402, 429):
            return f"the quota at {url} is exhausted ({message}). Check its plan and billing."
        if self.status in (404, 405):
            return f"{url}: the server has no such address ({message}). OPENAI_BASE_URL mostly ends in /v1."
        return f"{url} refuses the request ({message})."


class PromptRefused(UserError):
    """A prompt that a server refuses for good, by what it says or for its length. Others may be answered."""


def raise_error_under_status_200(reply: typing.Any, url: str) -> None:
    """Raise the Refusal in a body or in an event of a stream, where there is one in place of an answer."""
    if not isinstance(reply, dict):
        return
    choices = reply.get("choices") or []
    of_choices = [c["error"] for c in choices if isinstance(c, dict) and c.get("error")]
    if not (of_choices or reply.get("error") or reply.get("object") == "error"):
        return
    body = of_choices[0] if of_choices else reply
    code = str(_details(body).get("code"))
    if code.isdecimal() and 400 <= int(code) < 600:
        raise Refusal(int(code), body, url)
    # LM Studio's for an address that it does not have. Others are taken for a fault that may pass.
    raise Refusal(404 if "unexpected endpoint" in json.dumps(body).lower() else 502, body, url)


def _details(body: typing.Any) -> dict:
    """The innermost object about an error, whatever is around it."""
    while True:
        if isinstance(body, list) and body:
            body = body[0]
        elif isinstance(body, dict) and body.get("error"):
            body = body["error"]
        else:
            return body if isinstance(body, dict) else {"message": body}


def retry_after_sec(headers: Mapping[str, str]) -> float:
    """The wait that a Retry-After header asks for, given in seconds or as a date; 0.0 without one.

    >>> retry_after_sec({"retry-after": "2.5"}), retry_after_sec({"retry-after": "soon"}), retry_after_sec({})
    (2.5, 0.0, 0.0)
    """
    asked = headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(asked))
    with contextlib.suppress(ValueError, OverflowError, TypeError, IndexError):  # odd dates
        return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
    return 0.0


def wait_in_words_sec(text: str) -> float:
    """The wait that an error's text asks for; 0.0 where it says nothing of one.

    >>> texts = "Please try again in 6m0s.", "retry after 10 seconds.", '{"retryDelay": "2s"}', "try again in 20ms"
    >>> [wait_in_words_sec(text) for text in texts]
    [360.0, 10.0, 2.0, 0.02]
    """
    found = WAIT.search(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(ms|mil|[smhd])", found[1].lower()) if found else []
    return float(sum(float(number) * SECONDS[unit] for number, unit in parts))


def refused_argument(refusal: Refusal, message: str, arguments: dict) -> str | None:
    """What a refused request can do without: the parameter that the server names, or the likeliest one; "prompt"
    stands for the list of prompts.

    Leaving out a temperature that the user chose is another experiment: only where the server takes none. Of
    temperature and top_p, which some servers do not take together, top_p goes, or the one that changes nothing.
    """
    named = []
    for name in ("logit_bias", "stop", "n", "top_p", "temperature"):
        pattern = rf"\b{name}\b" if len(name) > 1 else rf"['\"`]{name}['\"`]"
        if name in arguments and (refusal.param == name or re.search(pattern, message)):
            named.append(name)
    changes_nothing = [n for n in named if n not in ("temperature", "top_p") or arguments[n] == 1]
    if named and (changes_nothing or UNSUPPORTED.search(message)):
        return (changes_nothing or named)[0]
    is_batch = isinstance(arguments.get("prompt"), list)
    if is_batch and re.search(r"prompt|string|list|array|batch", message):
        return "prompt"
    return "logit_bias" if "logit_bias" in arguments else "prompt" if is_batch else None


def smallest_too_long(message: str, max_tokens: int) -> int:
    """The smallest max_tokens that would be too many behind the same prompt, by the numbers in a refusal, if any.

    >>> by_openai = "maximum context length is 4097 tokens, however you requested 4200 tokens (1128 in your prompt"
    >>> by_vllm = "maximum context length is 2048 tokens and your request has 48 input tokens (3072 > 2048 - 48)."
    >>> [smallest_too_long(message, 3072) for message in (by_openai, by_vllm, "Input is too long.")]
    [2970, 2001, 3072]
    """
    limit = re.search(r"context length\D{0,20}(\d+)", message)
    in_prompt = re.search(r"(\d+) (input|prompt) tokens", message)
    in_all = re.search(r"requested (?:a total of )?(\d+) tokens", message)
    if not limit or not (in_prompt or in_all):
        return max_tokens
    num_prompt_tokens = int(in_prompt[1]) if in_prompt else int(in_all[1]) - max_tokens
    return min(max_tokens, int(limit[1]) - num_prompt_tokens + 1)
