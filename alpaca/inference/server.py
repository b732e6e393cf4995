"""A model behind an OpenAI-compatible server, asked one thing at a time, whole or as a stream.

The chat API comes first; a model or server without it is asked with the completions API, in the training prompt.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import asyncio
import re
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

from alpaca.generation.teacher import read_answer
from alpaca.inference.local import Decoding
from utils import UserError, ask_server, is_unknown_model, openai_client, server_message, server_refusal

if typing.TYPE_CHECKING:
    import openai

Item, Answer = typing.TypeVar("Item"), typing.TypeVar("Answer")


def chat_message(instruction: str, input: str) -> str:
    """An instruction as a chat message. The chat template of models tuned here turns it into the training prompt,
    token for token; other models can read it."""
    return f"{instruction}\n\n### Input:\n{input}" if input else instruction


class ServerModel:
    """A model by the name that its server gives it. api: "chat", "completions", or "auto", which notices.

    The server and the key come from OPENAI_BASE_URL and OPENAI_API_KEY. notice(text) is told of waits and changes.
    """

    def __init__(self, model_name: str, api: str, decoding: Decoding, notice: Callable[[str], None]):
        if api not in ("auto", "completions", "chat"):
            raise UserError(f"--api {api}: it has to be auto, completions or chat.")
        self.model_name, self.decoding = model_name, decoding
        self.api = "completions" if api == "completions" else "chat"
        self._may_switch = api == "auto"
        self._max_tokens_name = "max_tokens"
        self._notice = notice
        self._client = openai_client()

    async def check_reachable(self) -> None:
        """Raise UserError where nobody answers at the address; later, a lost connection is waited for."""
        import openai

        try:
            await self._client.models.list()
        except openai.APIConnectionError as error:
            address = self._client.base_url
            raise UserError(
                f"no server at {address} ({error.__cause__ or error}). Start it, or set OPENAI_BASE_URL to another."
            ) from None
        except (openai.OpenAIError, ValueError):  # not every server lists its models; the first request will tell
            pass

    async def respond(self, message: str, prompt: str) -> tuple[str, str | None]:
        """Text and finish reason of the response to a chat message, or, with the completions API, to a prompt."""

        async def send(endpoint, arguments):
            response = await endpoint.with_raw_response.create(**arguments)
            [completion] = read_answer(response.http_response.text, self.api, self.model_name).completions[:1]
            return completion

        return await self._ask(message, prompt, send)

    async def stream(self, message: str, prompt: str) -> AsyncIterator[str]:
        """The response so far, longer each time. Raises UserError where the connection breaks in the middle."""
        import openai

        async def send(endpoint, arguments):
            return await endpoint.create(**arguments, stream=True)

        text = ""
        try:
            async with await self._ask(message, prompt, send) as chunks:
                async for chunk in chunks:
                    if chunk.choices:
                        choice = chunk.choices[0]
                        text += (choice.delta.content if hasattr(choice, "delta") else choice.text) or ""
                        yield text.lstrip()
        except openai.OpenAIError as error:
            raise UserError(f"the server broke off: {' '.join(str(error).split())[:200]}") from None

    async def _ask(self, message: str, prompt: str, send: Callable[..., Awaitable]) -> typing.Any:
        """What send(endpoint, arguments) returns, after the adaptations that the server asks for."""
        import openai

        while True:
            api, limit = self.api, self._max_tokens_name
            endpoint = self._client.chat.completions if api == "chat" else self._client.completions
            content = {"messages": [{"role": "user", "content": message}]} if api == "chat" else {"prompt": prompt}
            arguments = {"model": self.model_name, **content, limit: self.decoding.max_new_tokens}
            arguments["temperature"] = self.decoding.temperature
            if self.decoding.top_p != 1:
                arguments["top_p"] = self.decoding.top_p
            try:
                return await ask_server(
                    lambda endpoint=endpoint, arguments=arguments: send(endpoint, arguments),
                    self.model_name,
                    self._notice,
                    caller_handles=(400, 404, 405, 422, 501),
                )
            except openai.APIStatusError as error:
                # Unless the answer to another request has changed the way of asking in the meantime.
                if (api, limit) == (self.api, self._max_tokens_name):
                    self._adapt(error)

    def _adapt(self, error: "openai.APIStatusError") -> None:
        """Change the way of asking by what the server refuses. Raises UserError where there is no other way."""
        message = server_message(error).replace(self.model_name, "")
        has_no_chat = re.search(r"\bchat\b", message) or (
            error.status_code in (404, 405, 501) and not is_unknown_model(error)
        )
        if self._may_switch and self.api == "chat" and has_no_chat:
            self.api, self._may_switch = "completions", False
            self._notice(f"{self.model_name} does not take the chat API: going on with the completions API")
        elif "max_completion_tokens" in message and self._max_tokens_name == "max_tokens":
            self._max_tokens_name = "max_completion_tokens"
        else:
            raise server_refusal(error, self.model_name) from None


async def as_answered(
    items: Iterable[Item], ask: Callable[[Item], Awaitable[Answer]], max_concurrent_requests: int
) -> AsyncIterator[tuple[Item, Answer]]:
    """(item, answer) as the answers arrive, with at most max_concurrent_requests under way."""

    async def ask_about(item: Item) -> tuple[Item, Answer]:
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
