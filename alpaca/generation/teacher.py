"""The teacher model behind an OpenAI-compatible server: prompts in, completions out.

Servers differ. The completions API comes first, and a batch of prompts travels in one request; what the server's
answer refuses (this API for the model, a list of prompts, an optional parameter) is from then on done in the way that
it accepts, and said once. A request that is too long is repeated with fewer tokens to generate.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import dataclasses
import json
import re
from collections.abc import Callable

from utils import UnusableAnswer, ask_server, is_unknown_model, openai_client, server_message, server_refusal

MAX_TOKENS = 3072
MIN_MAX_TOKENS = 64  # with fewer no task fits: then it is the prompt that is too long
# Where task 21 would begin. A shorter text, such as "21.", would cut an answer at "in 2021."
STOP = ["###\n21."]
# OpenAI's completions models whose end-of-text token is 50256: they are kept from ending the list early. To other
# tokenizers, those of gpt-3.5-turbo-instruct and davinci-002 included, the id means another token or none.
END_OF_TEXT_IS_50256 = re.compile(r"text-(davinci|curie|babbage|ada)-00[123]|davinci|curie|babbage|ada|gpt2")
TOO_LONG = re.compile(
    r"context[ _](length|size|window)|maximum (model |input |prompt |sequence )?length|too long|"
    r"reduce (your|the) (prompt|length)|max_(completion_)?tokens\W.{0,80}(too large|at most|exceed|greater|less than)",
    re.IGNORECASE | re.DOTALL,
)


@dataclasses.dataclass
class Answer:
    """Completions as (text, finish reason), in the order of the prompts, and what the server says of their cost."""

    completions: list[tuple[str, str | None]]
    api: str
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None


class OnePromptPerRequest(Exception):
    """The server takes one prompt per request, and was given several."""


class Teacher:
    """A model, and what is known by now of how its server wants to be asked.

    api: "completions", "chat", or "auto", which begins with completions and goes on with chat for a chat-only model.
    notice(text) is told of each adaptation and each wait.
    """

    def __init__(
        self,
        model_name: str,
        api: str,
        prompts_per_request: int,
        temperature: float,
        top_p: float,
        notice: Callable[[str], None],
    ):
        self.model_name = model_name
        self.api = "chat" if api == "chat" else "completions"
        self.prompts_per_request = 1 if api == "chat" else prompts_per_request
        self._may_switch_to_chat = api == "auto"
        self._sampling = {"temperature": temperature, "top_p": top_p, "n": 1, "stop": STOP}
        if END_OF_TEXT_IS_50256.fullmatch(model_name):
            self._sampling["logit_bias"] = {"50256": -100}
        self._max_tokens_name = "max_tokens"
        self._notice = notice
        self._client = openai_client()

    async def complete(self, prompts: list[str]) -> Answer:
        """One completion per prompt. Raises OnePromptPerRequest, or UserError where the server's refusal is final."""
        import openai

        max_tokens = MAX_TOKENS
        while True:
            if len(prompts) > self.prompts_per_request:
                raise OnePromptPerRequest
            api, arguments = self.api, self._arguments(prompts, max_tokens)
            try:
                return await ask_server(
                    lambda api=api, arguments=arguments: self._send(api, arguments),
                    self.model_name,
                    self._notice,
                    caller_handles=(400, 404, 405, 422, 501),
                )
            except openai.APIStatusError as error:
                if TOO_LONG.search(f"{error.code} {server_message(error)}"):
                    max_tokens = int(max_tokens * 0.8)
                    if max_tokens < MIN_MAX_TOKENS:
                        raise server_refusal(error, self.model_name) from None
                elif len(prompts) > self.prompts_per_request or arguments != self._arguments(prompts, max_tokens):
                    continue  # the answer to another request has changed the way of asking in the meantime
                else:
                    self._adapt(error, arguments)

    async def close(self) -> None:
        await self._client.close()

    def _arguments(self, prompts: list[str], max_tokens: int) -> dict:
        """The body of a request."""
        arguments = {"model": self.model_name, self._max_tokens_name: max_tokens, **self._sampling}
        if self.api == "chat":
            return {**arguments, "messages": [{"role": "user", "content": prompts[0]}]}
        # A single prompt is a string, which every server takes.
        return {**arguments, "prompt": prompts[0] if len(prompts) == 1 else prompts}

    async def _send(self, api: str, arguments: dict) -> Answer:
        endpoint = self._client.chat.completions if api == "chat" else self._client.completions
        # The raw body, since the client itself takes any JSON, and any text, for a completion.
        response = await endpoint.with_raw_response.create(**arguments)
        return read_answer(response.http_response.text, api, self.model_name)

    def _adapt(self, error, arguments: dict) -> None:
        """Change the way of asking by what the server refuses. Raises UserError where there is no other way."""
        message = server_message(error).replace(self.model_name, "")
        if self._may_switch_to_chat and _wants_chat(error, message):
            self.api, self.prompts_per_request, self._may_switch_to_chat = "chat", 1, False
            self._sampling.pop("logit_bias", None)
            self._notice(f"{self.model_name} does not take the completions API: going on with the chat API")
        elif is_unknown_model(error) or error.status_code not in (400, 422):
            raise server_refusal(error, self.model_name) from None
        elif "max_completion_tokens" in message and self._max_tokens_name == "max_tokens":
            self._max_tokens_name = "max_completion_tokens"
        elif refused := self._refused(error, message, arguments):
            if refused == "prompt":
                self.prompts_per_request = 1
            else:
                del self._sampling[refused]
            way = "one prompt per request" if refused == "prompt" else f"without {refused}"
            self._notice(f"the server refuses a request ({message}): going on {way}")
        else:
            raise server_refusal(error, self.model_name) from None

    def _refused(self, error, message: str, arguments: dict) -> str | None:
        """What a refused request can do without: the parameter that the server names, or the likeliest one."""
        is_batch = isinstance(arguments.get("prompt"), list)
        optional = [name for name in ("logit_bias", "stop", "n", "temperature", "top_p") if name in arguments]
        for name in optional:
            pattern = rf"\b{name}\b" if len(name) > 1 else rf"['\"`]{name}['\"`]"
            named = error.param == name or re.search(pattern, message)
            # Leaving out a temperature that the user chose would be another experiment.
            if named and (name not in ("temperature", "top_p") or arguments[name] == 1.0):
                return name
        if is_batch and re.search(r"prompt|string|list|array|batch", message):
            return "prompt"
        return "logit_bias" if "logit_bias" in arguments else "prompt" if is_batch else None


def _wants_chat(error, message: str) -> bool:
    """Does this refusal of a completions request say that the model, or the server, only has the chat API?"""
    return bool(re.search(r"\bchat\b", message)) or (
        error.status_code in (404, 405, 501) and not is_unknown_model(error)
    )


def read_answer(body: str, api: str, model_name: str) -> Answer:
    """The completions in the body of an answer, of either API. Raises UnusableAnswer where there are none."""
    try:
        reply = json.loads(body)
        choices = sorted(reply["choices"], key=lambda choice: choice.get("index") or 0)
        completions = [(_text(choice), choice.get("finish_reason")) for choice in choices]
        usage = reply.get("usage") or {}
        num_tokens = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")]
        model = str(reply.get("model") or model_name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        excerpt = " ".join(body[:200].split())
        raise UnusableAnswer(f"the server's answer is no completion: {excerpt!r}") from None
    if not completions:
        raise UnusableAnswer("the server's answer has no choices")
    return Answer(completions, api, model, *(number if isinstance(number, int) else None for number in num_tokens))


def _text(choice: dict) -> str:
    """The text of a choice of either API; a chat model that declines to answer gives none."""
    text = (choice["message"]["content"] or "") if "message" in choice else choice["text"]
    # JSON can carry half a surrogate pair, which no file can.
    return text.encode("utf-8", "replace").decode()
