"""A model behind an OpenAI-compatible server: prompts in, completions out, whole or as a stream.

Servers differ. What a refusal names (this API, a list of prompts, streaming, an optional parameter) is from then on
done in the way that the server accepts, and said once. A request that is too long is repeated with fewer tokens to
generate, and one that fails for a passing reason as it is, after a wait.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import asyncio
import contextlib
import os
import random
import re
import time
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from alpaca.inference.answers import (
    Answer,
    UnusableAnswer,
    may_become_reasoning,
    read_answer,
    read_stream,
    read_streamed_answer,
    without_reasoning,
)
from alpaca.inference.refusals import PromptRefused, Refusal, refused_argument, smallest_too_long
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

STREAMING = re.compile(r"\bstream(ing)?\b(?!['\"]\s*:)")  # and not as a key of the request, which some repeat
MIN_MAX_TOKENS = 64  # where not even so many fit, it is the prompt that is too long
MAX_REFUSED_PROMPTS = 10  # in a row; then it is not the prompts

Item, Result = typing.TypeVar("Item"), typing.TypeVar("Result")


class OnePromptPerRequest(Exception):
    """The server takes one prompt per request, and was given several."""


class Way(typing.NamedTuple):
    """What is known of how a server wants to be asked."""

    api: str
    max_tokens_name: str = "max_tokens"
    takes_lists: bool = True
    streams: bool | None = None  # always or never; None: as is asked for
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
        self._num_answers, self._num_refused_prompts = 0, 0  # in all; in a row
        self._client = openai_client()

    @property
    def takes_several_prompts(self) -> bool:
        return self._way.api == "completions" and self._way.takes_lists

    async def check_reachable(self) -> None:
        """Raise UserError where nobody answers at the address; later, a lost connection is waited for."""
        import openai

        async with openai_client() as client:  # one of its own, so that this can be asked in any event loop
            try:
                await client.models.with_raw_response.list()  # whatever it is: the client would take it for a list
            except openai.APIConnectionError as error:
                if isinstance(error.__cause__, UserError):  # what bound_response raised
                    raise error.__cause__ from None
                raise UserError(
                    f"no server at {client.base_url} ({error.__cause__ or error}). "
                    "Start it, or set OPENAI_BASE_URL to another."
                ) from None
            except (openai.OpenAIError, ValueError):  # not every server lists its models; the first request will tell
                pass

    async def complete(self, prompts: list[str], message: str | None = None, **decoding) -> Answer:
        """One completion per prompt. With the chat API, message is sent in place of a single prompt, if given.

        decoding: max_tokens, and the API's other parameters. Raises OnePromptPerRequest, PromptRefused where the
        server answers other prompts but not this one, or UserError where its refusal is final.
        """

        async def read(response, arguments: dict) -> Answer:
            content_type = response.headers.get("content-type", "")
            if arguments.get("stream") or content_type.startswith("text/event-stream"):
                if isinstance(arguments.get("prompt"), list):  # its completions would come mixed
                    await response.aclose()
                    self._way = self._way._replace(takes_lists=False)
                    raise OnePromptPerRequest
                return await read_streamed_answer(response, arguments)
            return read_answer(response.text, arguments, str(response.url))

        return await self._ask(read, prompts, message, **decoding)

    async def stream(self, prompt: str, message: str, **decoding) -> AsyncIterator[tuple[str, str]]:
        """The response so far, longer each time, and why it ended, "" before it has.

        Raises UserError where the connection breaks in the middle."""

        async def read(response, arguments: dict) -> tuple[tuple[str, str] | None, AsyncIterator[tuple[str, str]]]:
            texts = read_stream(response, arguments)
            # Some servers put a refusal into the stream: with the first piece, the request is granted.
            return await anext(texts, None), texts

        part, texts = await self._ask(read, [prompt], message, stream=True, **decoding)
        response = ""
        try:
            async with contextlib.aclosing(texts):
                while part is not None:
                    text, finish_reason = part
                    response = without_reasoning(text).lstrip()
                    if response and not may_become_reasoning(text):
                        yield response, finish_reason
                    part = await anext(texts, None)
        except (Refusal, UnusableAnswer) as error:
            raise UserError(f"the server broke off: {error}") from None
        if not response:
            self._notice("the response is empty; a model that reasons may need more --max_new_tokens")

    async def _ask(self, read: Callable, prompts: list[str], message: str | None, max_tokens: int, **decoding):
        """What read(response, arguments) returns, after the adaptations that the server asks for."""
        num_chars = max(map(len, prompts))
        max_tokens = self._fitting(max_tokens, num_chars)
        while True:
            if len(prompts) > 1 and not self.takes_several_prompts:
                raise OnePromptPerRequest
            way, arguments = self._way, self._arguments(prompts, message, max_tokens, decoding)
            endpoint = self._client.chat.completions if way.api == "chat" else self._client.completions
            try:
                result = await self._ask_patiently(endpoint, arguments, read)
                self._num_refused_prompts = 0
                return result
            except Refusal as refusal:
                if refusal.is_too_long and max_tokens * 0.8 >= MIN_MAX_TOKENS:
                    self._too_long.append((num_chars, smallest_too_long(refusal.message, max_tokens)))
                    max_tokens = self._fitting(max_tokens, num_chars)
                elif refusal.is_too_long or refusal.is_about_content:
                    self._num_refused_prompts += 1
                    text = refusal.in_one_line(self.model_name)
                    if self._num_refused_prompts < MAX_REFUSED_PROMPTS:
                        raise PromptRefused(text) from None
                    raise UserError(f"{MAX_REFUSED_PROMPTS} prompts in a row were refused; the last: {text}") from None
                elif way is self._way:  # else, the answer to another request has changed it in the meantime
                    self._adapt(refusal, arguments)

    async def _ask_patiently(self, endpoint, arguments: dict, read: Callable[..., Awaitable[Result]]) -> Result:
        """What read() returns, asked again after rate limits, server errors, lost connections and UnusableAnswer.

        The client's own retries tell nobody why they wait, honour a Retry-After of two minutes at most, ask again where
        a quota is exhausted, and take any body of status 200 for an answer. Raises a Refusal that waiting does not
        help, and UserError after MAX_RETRIES retries in a row.
        """
        import httpx2  # the official client's own
        import openai

        num_failures, num_answers = 0, self._num_answers
        while True:
            asked_wait_sec, is_limit = 0.0, False
            try:
                try:
                    async with asyncio.timeout(REQUEST_TIMEOUT_SEC):  # the client's own bounds each read, not the whole
                        # The raw body, since the client itself takes any JSON, and any text, for a completion.
                        response = (await endpoint.with_raw_response.create(**arguments)).http_response
                        result = await read(response, arguments)
                    self._num_answers += 1
                    return result
                except TimeoutError:
                    raise UnusableAnswer(f"the request timed out after {REQUEST_TIMEOUT_SEC:.0f} s") from None
                except openai.APIStatusError as error:
                    response = error.response
                    raise Refusal(response.status_code, response.text, str(response.url), response.headers) from None
            except Refusal as refusal:
                if not refusal.is_passing:
                    raise
                reason, asked_wait_sec, is_limit = refusal.message, refusal.wait_sec, refusal.status == 429
            except openai.APIConnectionError as error:
                if isinstance(error.__cause__, UserError):  # what bound_response raised
                    raise error.__cause__ from None
                # The client's own text is "Connection error."; its cause says which.
                reason = f"{error.request.url}: {str(error.__cause__ or '') or error.message}"
            except httpx2.HTTPError as error:  # which the client lets through as it reads why a stream is refused
                reason = f"the connection broke: {error or type(error).__name__}"
            except UnusableAnswer as error:
                reason = str(error)
            # A limit that lets other requests through is kept, however often this one comes too late.
            num_failures = 1 if is_limit and self._num_answers > num_answers else num_failures + 1
            num_answers = self._num_answers
            await self._wait(num_failures, reason, asked_wait_sec)

    async def _wait(self, num_failures: int, reason: str, asked_wait_sec: float) -> None:
        """Wait before the next attempt. Raises UserError where it would be too many or too long."""
        if asked_wait_sec > MAX_RETRY_AFTER_SEC:
            raise UserError(f"the server asks to wait {asked_wait_sec:.0f} s ({reason}). Start again after that.")
        if num_failures > MAX_RETRIES:
            raise UserError(f"{num_failures} attempts in a row failed; the last: {reason}")
        # Jitter keeps requests that failed together from coming back together.
        wait_sec = min(FIRST_WAIT_SEC * 2 ** (num_failures - 1), MAX_WAIT_SEC) * random.uniform(0.5, 1.5)
        wait_sec = max(wait_sec, asked_wait_sec * random.uniform(1, 1.1))
        self._notice(f"{reason}; retry {num_failures} of {MAX_RETRIES} in {wait_sec:.1f} s")
        await asyncio.sleep(wait_sec)

    def _arguments(self, prompts: list[str], message: str | None, max_tokens: int, decoding: dict) -> dict:
        """The body of a request."""
        way = self._way
        decoding = {k: v for k, v in decoding.items() if k not in way.refused}
        arguments = {"model": self.model_name, way.max_tokens_name: max_tokens, **decoding}
        if way.streams is not None:
            arguments["stream"] = way.streams
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

    def _adapt(self, refusal: Refusal, arguments: dict) -> None:
        """Change the way of asking by what the server refuses. Raises UserError where there is no other way."""
        # Without the model's name, which may hold the words looked for.
        message = re.sub(rf"(?<!\w){re.escape(self.model_name)}(?!\w)", "", refusal.message)
        way, status = self._way, refusal.status
        lacks_api = status in (404, 405, 501) and not refusal.is_unknown_model
        lacks_api |= status in (400, 404, 405, 422, 501) and bool(re.search(r"\bchat\b", message))
        change, why, what_now = {}, f"the server refuses a request ({message})", ""
        if lacks_api and way.api != self._apis[-1] and "v1/responses" not in message:
            change, what_now = {"api": self._apis[-1]}, f"with the {self._apis[-1]} API"
            why = f"{self.model_name} does not take the {way.api} API"
        elif refusal.is_unknown_model or status not in (400, 422):
            pass
        elif "max_completion_tokens" in message and way.max_tokens_name == "max_tokens":
            change, what_now = {"max_tokens_name": "max_completion_tokens"}, "with max_completion_tokens"
        elif way.streams is None and (refusal.param == "stream" or STREAMING.search(message)):
            streams = not arguments.get("stream")
            change = {"streams": streams, "takes_lists": way.takes_lists and not streams}
            what_now = "with streaming" if streams else "without streaming"
        elif (refused := refused_argument(refusal, message, arguments)) == "prompt":
            change, what_now = {"takes_lists": False}, "one prompt per request"
        elif refused:
            change, what_now = {"refused": way.refused | {refused}}, f"without {refused}"
        if not change:
            raise UserError(refusal.in_one_line(self.model_name)) from None
        self._way = way._replace(**change)
        self._notice(f"{why}: going on {what_now}")


# ---- Requests ----


def openai_client() -> "openai.AsyncOpenAI":
    """The official client, set up from OPENAI_API_KEY, OPENAI_BASE_URL, OPENAI_ORG_ID (or OPENAI_ORG).

    It does not retry by itself: see _ask_patiently. Raises UserError where neither a key nor an endpoint is set.
    """
    key, base_url = os.environ.get("OPENAI_API_KEY", "").strip(), os.environ.get("OPENAI_BASE_URL", "").strip()
    if not key and not base_url:
        raise UserError("set OPENAI_API_KEY, or OPENAI_BASE_URL for a server of your own that needs no key.")
    if base_url and not base_url.startswith(("http://", "https://")):
        raise UserError(f"OPENAI_BASE_URL is {base_url!r}; it needs the whole address, as http://127.0.0.1:8000/v1.")
    organization = os.environ.get("OPENAI_ORG_ID") or os.environ.get("OPENAI_ORG") or None
    for name, value in (("OPENAI_API_KEY", key), ("OPENAI_ORG_ID", organization or "")):
        if not re.fullmatch(r"[ -~]*", value):
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
        if target.host != response.url.host or (target.scheme, response.url.scheme) == ("http", "https"):
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


async def as_answered(
    items: Iterable[Item], ask: Callable[[Item], Awaitable[Result]], max_concurrent_requests: int
) -> AsyncIterator[tuple[Item, Result]]:
    """(item, answer) as the answers arrive, with at most max_concurrent_requests under way."""
    waiting, under_way = iter(items), {}
    try:
        while True:
            while len(under_way) < max_concurrent_requests and (item := next(waiting, None)) is not None:
                under_way[asyncio.ensure_future(ask(item))] = item
            if not under_way:
                return
            done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            # Answers before errors: one that is paid for is kept.
            for task in sorted(done, key=lambda task: task.exception() is not None):
                yield under_way.pop(task), task.result()
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
