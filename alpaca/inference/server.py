"""A model behind an OpenAI-compatible server: prompts in, completions out, whole or as a stream.

Servers differ. What a refusal names (this API for the model, a list of prompts, an optional parameter) is from then on
done in the way that the server accepts, and said once. A request that is too long is repeated with fewer tokens to
generate, and one that fails for a passing reason as it is, after a wait.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import asyncio
import contextlib
import dataclasses
import email.utils
import json
import os
import random
import re
import time
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

from utils import UserError, printable, without_secrets

if typing.TYPE_CHECKING:
    import openai

# A request that fails for a passing reason is sent again, with waits of 0.5 s, 1 s, 2 s, ... in the mean.
MAX_RETRIES = 7  # in a row, so that an outage of about a minute is outlasted
FIRST_WAIT_SEC = 0.5
MAX_WAIT_SEC = 30.0
MAX_RETRY_AFTER_SEC = 300.0  # a server that asks for a longer wait ends the run
REQUEST_TIMEOUT_SEC = 600.0  # the official client's own default; a small server may take minutes for an answer

MAX_BODY_BYTES = 64 << 20  # of an answer: 2,048 completions of 3,072 tokens each are about 30 MB
MAX_CONCURRENT_REQUESTS = 1000  # each holds a connection

MIN_MAX_TOKENS = 64  # where not even so many fit, it is the prompt that is too long
TOO_LONG = re.compile(
    r"context[ _](length|size|window)|maximum (model |input |prompt |sequence )?length|too long|"
    r"reduce (your|the) (prompt|length)|max_(completion_)?tokens\W.{0,80}(too large|at most|exceed|greater|less than)",
    re.IGNORECASE | re.DOTALL,
)

Item, Result = typing.TypeVar("Item"), typing.TypeVar("Result")


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


class OnePromptPerRequest(Exception):
    """The server takes one prompt per request, and was given several."""


class Way(typing.NamedTuple):
    """What is known of how a server wants to be asked."""

    api: str
    max_tokens_name: str = "max_tokens"
    takes_lists: bool = True
    refused: frozenset[str] = frozenset()  # optional parameters


def chat_message(instruction: str, input: str) -> str:
    """An instruction as a chat message. The chat template of models tuned here turns it into the training prompt,
    token for token; other models can read it."""
    return f"{instruction}\n\n### Input:\n{input}" if input else instruction


def check_api(api: str) -> None:
    """Raise UserError for an --api that there is not."""
    if api not in ("auto", "completions", "chat"):
        raise UserError(f"--api {api}: it has to be auto, completions or chat.")


class ServerModel:
    """A model by the name that its server gives it, and what is known by now of how the server wants to be asked.

    api: "chat", "completions", or "auto", which begins with the first of auto_apis and goes on with the second where
    the model or the server has only that. The server and the key come from OPENAI_BASE_URL and OPENAI_API_KEY.
    notice(text) is told of waits and changes. A model belongs to the event loop that first asks it.
    """

    def __init__(
        self,
        model_name: str,
        api: str,
        notice: Callable[[str], None],
        auto_apis: tuple[str, str] = ("chat", "completions"),
    ):
        self.model_name = model_name
        self._notice = lambda text: notice(printable(without_secrets(text)))
        self._apis = auto_apis if api == "auto" else (api,)
        self._way = Way(self._apis[0])
        self._too_long: list[tuple[int, int]] = []  # prompt in characters, smallest max_tokens known not to fit
        self._client = openai_client()

    @property
    def takes_several_prompts(self) -> bool:
        return self._way.api == "completions" and self._way.takes_lists

    async def check_reachable(self) -> None:
        """Raise UserError where nobody answers at the address; later, a lost connection is waited for."""
        import openai

        async with openai_client() as client:  # one of its own, so that this can be asked in any event loop
            try:
                await client.models.list()
            except openai.APIConnectionError as error:
                raise_own(error)
                raise UserError(
                    f"no server at {client.base_url} ({error.__cause__ or error}). "
                    "Start it, or set OPENAI_BASE_URL to another."
                ) from None
            except (openai.OpenAIError, ValueError):  # not every server lists its models; the first request will tell
                pass

    async def complete(self, prompts: list[str], message: str | None = None, **decoding) -> Answer:
        """One completion per prompt. With the chat API, message is sent in place of a single prompt, if given.

        decoding: max_tokens, and the API's other parameters. Raises OnePromptPerRequest, or UserError where the
        server's refusal is final.
        """

        async def send(endpoint, arguments: dict) -> Answer:
            # The raw body, since the client itself takes any JSON, and any text, for a completion.
            response = await endpoint.with_raw_response.create(**arguments)
            return read_answer(response.http_response.text, arguments)

        return await self._ask(send, prompts, message, **decoding)

    async def stream(self, prompt: str, message: str, **decoding) -> AsyncIterator[str]:
        """The response so far, longer each time. Raises UserError where the connection breaks in the middle."""
        import openai

        async def send(endpoint, arguments: dict):
            return await endpoint.create(**arguments, stream=True)

        text = ""
        try:
            async with await self._ask(send, [prompt], message, **decoding) as chunks:
                async for chunk in chunks:
                    if chunk.choices:
                        choice = chunk.choices[0]
                        text += (choice.delta.content if hasattr(choice, "delta") else choice.text) or ""
                        yield text.lstrip()
        except openai.OpenAIError as error:
            raise_own(error)
            raise UserError(f"the server broke off: {' '.join(str(error).split())[:200]}") from None

    async def _ask(self, send: Callable, prompts: list[str], message: str | None, max_tokens: int, **decoding):
        """What send(endpoint, arguments) returns, after the adaptations that the server asks for."""
        import openai

        num_chars = max(map(len, prompts))
        max_tokens = self._fitting(max_tokens, num_chars)
        while True:
            if len(prompts) > 1 and not self.takes_several_prompts:
                raise OnePromptPerRequest
            way, arguments = self._way, self._arguments(prompts, message, max_tokens, decoding)
            endpoint = self._client.chat.completions if way.api == "chat" else self._client.completions
            try:
                return await ask_patiently(lambda e=endpoint, a=arguments: send(e, a), self._notice)
            except openai.APIStatusError as error:
                reason = f"{error.code} {server_message(error)}"
                if TOO_LONG.search(reason):
                    if max_tokens * 0.8 < MIN_MAX_TOKENS:
                        raise server_refusal(error, self.model_name) from None
                    self._too_long.append((num_chars, smallest_too_long(reason, max_tokens)))
                    max_tokens = self._fitting(max_tokens, num_chars)
                elif way is self._way:  # else, the answer to another request has changed it in the meantime
                    self._adapt(error, arguments)

    def _arguments(self, prompts: list[str], message: str | None, max_tokens: int, decoding: dict) -> dict:
        """The body of a request."""
        way = self._way
        decoding = {k: v for k, v in decoding.items() if k not in way.refused or not is_optional(k, v)}
        arguments = {"model": self.model_name, way.max_tokens_name: max_tokens, **decoding}
        if way.api == "chat":
            arguments.pop("logit_bias", None)  # its ids are those of completions models
            return {**arguments, "messages": [{"role": "user", "content": message or prompts[0]}]}
        # A single prompt is a string, which every server takes.
        return {**arguments, "prompt": prompts[0] if len(prompts) == 1 else prompts}

    def _fitting(self, max_tokens: int, num_chars: int) -> int:
        """max_tokens, x 0.8 as often as it takes for it to fit behind a prompt of num_chars characters.

        From what was refused behind other prompts: a longer one leaves no more room, and one that is shorter by n
        characters room for n more tokens at most.
        """
        while max_tokens * 0.8 >= MIN_MAX_TOKENS and any(
            max_tokens >= too_many + max(0, longer - num_chars) for longer, too_many in self._too_long
        ):
            max_tokens = int(max_tokens * 0.8)
        return max_tokens

    def _adapt(self, error: "openai.APIStatusError", arguments: dict) -> None:
        """Change the way of asking by what the server refuses. Raises UserError where there is no other way."""
        way, message = self._way, server_message(error).replace(self.model_name, "")
        is_unknown, status = is_unknown_model(error), error.status_code
        lacks_api = status in (404, 405, 501) and not is_unknown
        lacks_api |= status in (400, 404, 405, 422, 501) and bool(re.search(r"\bchat\b", message))
        if lacks_api and way.api != self._apis[-1]:
            self._way = way._replace(api=self._apis[-1])
            self._notice(f"{self.model_name} does not take the {way.api} API: going on with the {self._way.api} API")
        elif is_unknown or status not in (400, 422):
            raise server_refusal(error, self.model_name) from None
        elif "max_completion_tokens" in message and way.max_tokens_name == "max_tokens":
            self._way = way._replace(max_tokens_name="max_completion_tokens")
        elif (refused := refused_argument(error, message, arguments)) == "prompt":
            self._way = way._replace(takes_lists=False)
            self._notice(f"the server refuses a request ({message}): going on one prompt per request")
        elif refused:
            self._way = way._replace(refused=way.refused | {refused})
            self._notice(f"the server refuses a request ({message}): going on without {refused}")
        else:
            raise server_refusal(error, self.model_name) from None


# ---- Requests ----


def openai_client() -> "openai.AsyncOpenAI":
    """The official client, set up from OPENAI_API_KEY, OPENAI_BASE_URL, OPENAI_ORG_ID (or OPENAI_ORG).

    It does not retry by itself: see ask_patiently. Raises UserError where neither a key nor an endpoint is set.
    """
    key, base_url = os.environ.get("OPENAI_API_KEY", "").strip(), os.environ.get("OPENAI_BASE_URL", "").strip()
    if not key and not base_url:
        raise UserError("set OPENAI_API_KEY, or OPENAI_BASE_URL for a server of your own that needs no key.")
    if base_url and not base_url.startswith(("http://", "https://")):
        raise UserError(f"OPENAI_BASE_URL is {base_url!r}; it needs the whole address, as http://127.0.0.1:8000/v1.")
    organization = os.environ.get("OPENAI_ORG_ID") or os.environ.get("OPENAI_ORG") or None
    for name, value in (("OPENAI_API_KEY", key), ("OPENAI_ORG_ID", organization or "")):
        if not re.fullmatch(r"[!-~]*", value):
            raise UserError(f"{name} holds a character that no HTTP header can carry. Set it anew.")
    import openai

    timeout = openai.Timeout(REQUEST_TIMEOUT_SEC, connect=5.0)
    try:
        return openai.AsyncOpenAI(
            api_key=key or "none",  # the client insists on one
            base_url=base_url or None,
            organization=organization,
            timeout=timeout,
            max_retries=0,
            # What is compressed could inflate to any size.
            default_headers={"Accept-Encoding": "identity"},
            http_client=openai.DefaultAsyncHttpxClient(timeout=timeout, event_hooks={"response": [bound_response]}),
        )
    except Exception as error:  # what the library finds wrong with an address, here or in the proxies' variables
        reason = " ".join(str(error).split())
        raise UserError(f"OPENAI_BASE_URL, HTTP_PROXY, HTTPS_PROXY or ALL_PROXY cannot be used ({reason}).") from None


async def bound_response(response) -> None:
    """Refuse a redirect to another host, which would get the prompts, and bound the body in size and time.

    A hook of the HTTP client's; the official client shows what it raises as the cause of an APIConnectionError.
    """
    if response.has_redirect_location:
        target = response.url.join(response.headers["location"])
        if target.host != response.url.host:
            raise UserError(f"{response.url} sends on to {target}, another host. If that is right, name that one.")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise UserError(f"{response.url} compresses its answer, though it was asked not to.")
    import httpx2  # the official client's own

    class BoundedStream(httpx2.AsyncByteStream):
        def __init__(self, stream):
            self.stream, self.aclose = stream, stream.aclose

        async def __aiter__(self):
            num_bytes, deadline = 0, time.monotonic() + REQUEST_TIMEOUT_SEC
            async for chunk in self.stream:
                num_bytes += len(chunk)
                if num_bytes > MAX_BODY_BYTES:
                    raise UserError(f"{response.url}: an answer of more than {MAX_BODY_BYTES >> 20} MB. Is it a model?")
                if time.monotonic() > deadline:
                    raise UserError(f"{response.url}: an answer that takes more than {REQUEST_TIMEOUT_SEC:.0f} s.")
                yield chunk

    response.stream = BoundedStream(response.stream)


def raise_own(error: "openai.OpenAIError") -> None:
    """Raise the UserError, if there is one, that the official client has wrapped."""
    if isinstance(error.__cause__, UserError):
        raise error.__cause__ from None


async def ask_patiently(send: Callable[[], Awaitable[Result]], notice: Callable[[str], None]) -> Result:
    """What send() returns, asked again after rate limits, server errors, lost connections and UnusableAnswer.

    The client's own retries tell nobody why they wait, honour a Retry-After of two minutes at most, ask again where a
    quota is exhausted, and take any body of status 200 for an answer. notice(text) is told about each wait. Passes on
    APIStatusErrors that waiting does not help; raises UserError after MAX_RETRIES retries.
    """
    import openai

    for num_failures in range(1, MAX_RETRIES + 2):
        asked_wait_sec = 0.0
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_SEC):  # the client's own bounds each read, not the whole
                return await send()
        except TimeoutError:
            reason = f"the request timed out after {REQUEST_TIMEOUT_SEC:.0f} s"
        except openai.APIStatusError as error:
            if not is_passing(error):
                raise
            reason, asked_wait_sec = server_message(error), retry_after_sec(error.response.headers)
        except openai.APIConnectionError as error:
            raise_own(error)
            # The client's own text is "Connection error."; its cause says which.
            reason = f"{error.request.url}: {str(error.__cause__ or '') or error.message}"
        except UnusableAnswer as error:
            reason = str(error)
        if asked_wait_sec > MAX_RETRY_AFTER_SEC:
            raise UserError(f"the server asks to wait {asked_wait_sec:.0f} s ({reason}). Start again after that.")
        if num_failures > MAX_RETRIES:
            break
        # Jitter keeps requests that failed together from coming back together.
        wait_sec = min(FIRST_WAIT_SEC * 2 ** (num_failures - 1), MAX_WAIT_SEC) * random.uniform(0.5, 1.5)
        wait_sec = max(wait_sec, asked_wait_sec * random.uniform(1, 1.1))
        notice(f"{reason}; retry {num_failures} of {MAX_RETRIES} in {wait_sec:.1f} s")
        await asyncio.sleep(wait_sec)
    raise UserError(f"{num_failures} attempts in a row failed; the last: {reason}")


def retry_after_sec(headers: Mapping[str, str]) -> float:
    """The wait that a Retry-After header asks for, given in seconds or as a date; 0.0 without one.

    >>> retry_after_sec({"retry-after": "2.5"}), retry_after_sec({"retry-after": "soon"}), retry_after_sec({})
    (2.5, 0.0, 0.0)
    """
    asked = headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(asked))
    with contextlib.suppress(ValueError, OverflowError, TypeError, IndexError):
        return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
    return 0.0


async def as_answered(
    items: Iterable[Item], ask: Callable[[Item], Awaitable[Result]], max_concurrent_requests: int
) -> AsyncIterator[tuple[Item, Result]]:
    """(item, answer) as the answers arrive, with at most max_concurrent_requests under way."""

    async def ask_about(item: Item) -> tuple[Item, Result]:
        return item, await ask(item)

    waiting, under_way = iter(items), set()
    try:
        while True:
            while len(under_way) < max_concurrent_requests and (item := next(waiting, None)) is not None:
                under_way.add(asyncio.create_task(ask_about(item)))
            if not under_way:
                return
            done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            # Answers before errors: one that is paid for is kept.
            for task in sorted(done, key=lambda task: task.exception() is not None):
                yield task.result()
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


# ---- Answers ----


def read_answer(body: str, arguments: dict) -> Answer:
    """The completions in the body of the answer to a request. Raises UnusableAnswer where there are none."""
    try:
        reply = json.loads(body)
        choices = sorted(reply["choices"], key=lambda choice: choice.get("index") or 0)
        completions = [(text_of(choice), choice.get("finish_reason")) for choice in choices]
        usage = reply.get("usage") or {}
        num_tokens = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")]
        model = printable(without_secrets(reply.get("model") or arguments["model"]))[:200]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        excerpt = " ".join(without_secrets(body[:2000])[:200].split())
        raise UnusableAnswer(f"the server's answer is no completion: {excerpt!r}") from None
    if not completions:
        raise UnusableAnswer("the server's answer has no choices")
    api = "chat" if "messages" in arguments else "completions"
    return Answer(completions, api, model, *(number if isinstance(number, int) else None for number in num_tokens))


def text_of(choice: dict) -> str:
    """The text of a choice of either API; a chat model that declines to answer gives none."""
    text = (choice["message"]["content"] or "") if "message" in choice else choice["text"]
    # JSON can carry half a surrogate pair, which no file can.
    return text.encode("utf-8", "replace").decode()


# ---- Refusals ----


def server_message(error: "openai.APIStatusError") -> str:
    """Status and message on one line of bounded length."""
    body = error.body
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body.get("error") or body
    message = " ".join(without_secrets(body or error.response.reason_phrase).split())
    return f"{error.status_code}: {message[:300]}"


def is_passing(error: "openai.APIStatusError") -> bool:
    """Is it worth asking again later?"""
    if error.status_code == 429:
        words = f"{error.code} {error.type} {server_message(error)}"
        return not re.search(r"insufficient_quota|billing|exceeded your current quota", words, re.I)
    return error.status_code in (408, 409) or (error.status_code >= 500 and error.status_code != 501)


def is_unknown_model(error: "openai.APIStatusError") -> bool:
    """Does the server say that there is no such model?"""
    phrases = (
        r"\bmodels?\b.*(not found|not exist|n't exist|deprecated|retired)|(no such|unknown|invalid) model|pinned to"
    )
    return error.status_code in (400, 404, 422) and (
        error.code == "model_not_found" or bool(re.search(phrases, server_message(error), re.IGNORECASE))
    )


def is_optional(name: str, value: typing.Any) -> bool:
    """Can a request do without this parameter? Leaving out a temperature that the user chose is another experiment."""
    return name in ("logit_bias", "stop", "n") or (name in ("temperature", "top_p") and value == 1)


def refused_argument(error: "openai.APIStatusError", message: str, arguments: dict) -> str | None:
    """What a refused request can do without: the parameter that the server names, or the likeliest one; "prompt"
    stands for the list of prompts."""
    is_batch = isinstance(arguments.get("prompt"), list)
    for name in ("logit_bias", "stop", "n", "temperature", "top_p"):
        pattern = rf"\b{name}\b" if len(name) > 1 else rf"['\"`]{name}['\"`]"
        is_named = error.param == name or re.search(pattern, message)
        if is_named and name in arguments and is_optional(name, arguments[name]):
            return name
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


def server_refusal(error: "openai.APIStatusError", model_name: str) -> UserError:
    """The one line for a request that the server refuses for good."""
    message, url = server_message(error), str(error.request.url)
    if is_unknown_model(error):
        if model_name == "text-davinci-003":
            return UserError(
                f"{url} has no model text-davinci-003, which OpenAI retired in January 2024. Name another one with "
                "--model_name, or set OPENAI_BASE_URL to a server of your own (vLLM, llama.cpp, Ollama, "
                "transformers serve) and name its model."
            )
        return UserError(f"{url} has no model {model_name!r} ({message}). Name another one with --model_name.")
    if error.status_code == 401:
        return UserError(f"{url} does not accept the key in OPENAI_API_KEY ({message}).")
    if error.status_code == 403:
        return UserError(f"{url} denies permission ({message}).")
    if error.status_code in (402, 429):
        return UserError(f"the quota at {url} is exhausted ({message}). Check its plan and billing.")
    if error.status_code in (404, 405):
        return UserError(f"{url}: the server has no such address ({message}). OPENAI_BASE_URL mostly ends in /v1.")
    return UserError(f"{url} refuses the request ({message}).")
