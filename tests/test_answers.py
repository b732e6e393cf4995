"""Answers as servers of today send them, whole and as streams, and what their refusals mean."""

import asyncio
import contextlib
import json

import pytest

from alpaca.inference import server as module
from alpaca.inference.answers import without_reasoning
from alpaca.inference.refusals import PromptRefused
from alpaca.inference.server import OnePromptPerRequest, ServerModel
from data.openai_server import OpenAIServer
from utils import UserError


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The waits between attempts, in seconds, which take no time here."""
    waits_sec = []

    async def sleep(seconds):
        waits_sec.append(seconds)

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    return waits_sec


@pytest.fixture
def asked(monkeypatch):
    """asked(answers, ...): what a model makes of these answers, one for each request, and what it says and sends."""
    monkeypatch.setenv("OPENAI_API_KEY", "a key of a test")
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def run(answers: list, do_stream=False, api="chat", prompts=1, more_prompts=(), passes_over=(), **decoding):
        notices, results = [], []
        with OpenAIServer(lambda prompt: "hi", faults=lambda n: answers[n] if n < len(answers) else None) as server:
            monkeypatch.setenv("OPENAI_BASE_URL", server.url)
            model = ServerModel("m", api, notices.append)

            async def ask() -> None:
                for number in range(prompts):
                    if do_stream:
                        stream = model.stream(f"p{number}", f"p{number}", max_tokens=99, **decoding)
                        results.append([text async for text, _ in stream])
                        continue
                    with contextlib.suppress(*passes_over):
                        answer = await model.complete([f"p{number}", *more_prompts], max_tokens=99, **decoding)
                        results.append(answer.completions[0])

            asyncio.run(ask())
        return results if prompts > 1 else results[0], notices, [request["body"] for request in server.requests]

    return run


def reply(message, reason="stop") -> tuple[int, dict]:
    return 200, {"choices": [{"index": 0, "finish_reason": reason, "message": message}]}


def error(status, message, **more) -> tuple[int, dict]:
    return status, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **more}}


# ---- What an answer holds ----


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"role": "assistant", "reasoning": "Let me think"}, ""),
        ({"content": None, "reasoning_content": "Hm."}, ""),
        ({"content": ""}, ""),
        ({"content": [{"type": "thinking", "thinking": [{"text": "Hm"}]}, {"type": "text", "text": "Red."}]}, "Red."),
        ({"content": [{"type": "text", "text": "Red, "}, {"type": "text", "text": "green."}]}, "Red, green."),
        ({"content": {"type": "text", "text": "Red."}}, "Red."),
        ({"content": None, "refusal": "I cannot help with that."}, "I cannot help with that."),
        ({"content": "<think>\n4. Instruction: no\n</think>\n\nRed."}, "Red."),
        ({"content": "The user wants colours.\n</think>\n\nRed."}, "Red."),
        ({"content": "<think>\nIt goes on"}, ""),
    ],
)
def test_the_text_of_a_message_is_what_the_model_answers(message, text, asked):
    assert asked([reply(message)])[0] == (text, "stop")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("[THINK]Hm.[/THINK]Red.", "Red."),
        ("<thought>Hm.</thought>\nRed.", "Red."),
        ("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Red.", "Red."),
        ("<think>Hm.</think>\nClose it with </think>\n", "Close it with </think>\n"),
        (" Red. <think> is a tag, </think> its end.", " Red. <think> is a tag, </think> its end."),
        ("Close the block with `</think>`.", "Close the block with `</think>`."),
        ("  Red.\n", "  Red.\n"),
    ],
)
def test_reasoning_before_an_answer_goes_and_all_else_stays(text, answer):
    assert without_reasoning(text) == answer


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
def test_a_response_that_was_cut_off_is_known_by_any_name(reason, asked):
    assert asked([reply({"content": "Red"}, reason)])[0] == ("Red", "length")


# ---- Streams ----


def events(*contents, end="data: [DONE]\n\n", reason="stop") -> str:
    chunks = [{"choices": [{"index": 0, "finish_reason": None, "delta": {"content": content}}]} for content in contents]
    chunks.append({"choices": [{"index": 0, "finish_reason": reason, "delta": {}}]})
    return "".join(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n" for chunk in chunks) + end


PLAIN = reply({"role": "assistant", "content": "Red, green."})[1]


@pytest.mark.parametrize(
    "body",
    [
        PLAIN,
        json.dumps(PLAIN, indent=2),
        events("Red, ", "green."),
        events("Red, ", "green.").replace("data: ", "data:").replace("\n", "\r\n"),
        events("Red, ", "green.", end=""),
        events("Red, ", "green.", reason=None),
        ": PROCESSING\n\nevent: ping\ndata:\n\ndata: {}\n\nid: 7\nretry: 10\n" + events("Red, ", "green."),
        events([{"type": "thinking", "thinking": []}], [{"type": "text", "text": "Red, "}], None, "green."),
        events("<th", "ink>Hm", ".</think>", "\n\n", "Red, ", "green."),
        'data: {"choices": null, "usage": {}}\n\n' + events("Red, ", "green."),
        events("Red, ", end="", reason=None) + f"data: {json.dumps(PLAIN)}\n\n",
        'data: {"choices": [{"index": 0, "text": "Red, green.", "finish_reason": "stop"}]}\n\n',
        f"data: {json.dumps(PLAIN)}\n\ndata: [DONE]\n\n",
    ],
    ids=["plain", "plain, indented", "usual", "CRLF", "no [DONE]", "no reason", "comments", "parts", "reasoning",
         "no choices", "whole after its pieces", "completions", "whole"],
)  # fmt: skip
def test_a_stream_is_read_however_it_comes(body, asked):
    texts, notices, bodies = asked([(200, body)], do_stream=True)
    assert texts[-1] == "Red, green."
    assert not any("think" in text or "Hm" in text for text in texts)
    assert (len(bodies), notices) == (1, [])
    assert bodies[0]["stream"] is True


def test_a_line_separator_within_a_text_ends_no_event(asked):
    assert asked([(200, events("one\u2028two\x85three"))], do_stream=True)[0][-1] == "one\u2028two\x85three"


def test_a_stream_of_nothing_but_reasoning_is_said_to_be_empty(asked):
    texts, notices, _ = asked([(200, events("<think>", "Hm"))], do_stream=True)
    assert texts == []
    assert "the response is empty" in notices[0]


@pytest.mark.parametrize(
    ("tail", "words"),
    [
        ('data: {"error": {"code": 502, "message": "Provider disconnected"}, "choices": []}\n\n', "Provider disconn"),
        ('data: {"choices": [{"delta": {}, "error": {"code": 502, "message": "No more"}}]}\n\n', "No more"),
        ("event: error\ndata: {not JSON\n\n", "no piece of a completion"),
        ("", "ended before the response did"),
    ],
)
def test_an_error_within_a_stream_is_said(tail, words, asked):
    begun = events("Red, ").partition('data: {"choices": [{"index": 0, "finish_reason": "stop"')[0]
    with pytest.raises(UserError, match=f"the server broke off: .*{words}"):
        asked([(200, begun + tail)], do_stream=True)


def test_a_refusal_that_breaks_off_is_asked_again(asked, waits):
    for do_stream in (False, True):
        assert asked(["cut refusal"], do_stream)[1][0].endswith(f"retry 1 of 7 in {waits[-1]:.1f} s")


def test_an_error_before_a_streams_first_piece_is_asked_again(asked, waits):
    fault = 'data: {"error": {"code": 503, "message": "warming up"}}\n\n'
    assert asked([(200, fault), "dropped", "cut", (200, events("hi"))], do_stream=True)[0] == ["hi", "hi"]
    assert len(waits) == 3


@pytest.mark.parametrize(
    ("refusal", "streams"),
    [
        (error(400, "This model only support stream mode, please enable the stream parameter."), True),
        (error(400, "parameter.enable_thinking must be set to false for non-streaming calls"), True),
        (error(400, "Your organization must be verified to stream this model.", param="stream"), False),
        (error(400, "This model doesn't support streaming."), False),
    ],
    ids=["Qwen", "Qwen that reasons", "OpenAI", "Bedrock"],
)
def test_a_model_that_streams_always_or_never_is_asked_as_it_answers(refusal, streams, asked):
    answer = (200, events("Red, ", "green.") if streams else PLAIN)
    results, notices, bodies = asked([refusal, answer, answer], do_stream=not streams, prompts=2)
    assert results == ([("Red, green.", "stop")] * 2 if streams else [["Red, green."]] * 2)
    assert [body.get("stream", False) for body in bodies] == [not streams, streams, streams]
    assert len(notices) == 1


def test_a_stream_that_nobody_asked_for_is_the_answer(asked):
    body = events("<think>Hm.</think>", "Red, ", "green.", reason="length")
    stream = (200, body, {"Content-Type": "text/event-stream"})
    assert asked([stream])[0] == ("Red, green.", "length")
    nothing = (200, "data: [DONE]\n\n", {"Content-Type": "text/event-stream"})
    assert asked([nothing, stream])[0] == ("Red, green.", "length")


def test_an_unasked_stream_in_answer_to_several_prompts_is_asked_for_one_by_one(asked):
    body = 'data: {"choices": [{"index": 1, "text": "green."}]}\n\ndata: [DONE]\n\n'
    with pytest.raises(OnePromptPerRequest):
        asked([(200, body, {"Content-Type": "text/event-stream"})], api="completions", more_prompts=["another"])


def test_a_refusal_that_repeats_the_request_is_not_about_its_streaming(asked):
    refusal = error(400, "Extra inputs: stop is not permitted. Body: {'stream': True, 'stop': ['###']}")
    _, _, bodies = asked([refusal], do_stream=True, stop=["###"])
    assert bodies[1]["stream"] is True
    assert "stop" not in bodies[1]


# ---- Refusals ----

UNSUPPORTED = "Unsupported parameter: '{}' is not supported with this model."
REFUSALS = {
    "GPT-5": [
        error(400, UNSUPPORTED.format("max_tokens") + " Use 'max_completion_tokens' instead.", param="max_tokens"),
        error(400, "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) value"
              " is supported.", param="temperature"),
        error(400, UNSUPPORTED.format("top_p"), param="top_p"),
        error(400, UNSUPPORTED.format("stop"), param="stop"),
    ],
    "Claude": [error(400, "`temperature` and `top_p` cannot both be specified for this model. Please use only one.")],
    "Mistral": [(422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "stop"], "msg": "Extra inputs"}]})],
    "Gemini": [(400, [{"error": {"code": 400, "message": 'Invalid JSON payload. Unknown name "stop": Cannot find'}}])],
    "OpenRouter": [error(400, "Provider returned error", metadata={"raw": '{"detail":"stop is not allowed here"}'})],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("GPT-5", {"max_completion_tokens"}),
        ("Claude", {"max_tokens", "temperature", "stop"}),
        ("Mistral", {"max_tokens", "temperature", "top_p"}),
        ("Gemini", {"max_tokens", "temperature", "top_p"}),
        ("OpenRouter", {"max_tokens", "temperature", "top_p"}),
    ],
)
def test_what_a_refusal_names_is_sent_otherwise_from_then_on_and_said_once(name, left, asked):
    refusals = REFUSALS[name]
    results, notices, bodies = asked(refusals, prompts=3, temperature=0.7, top_p=0.9, stop=["###"])
    assert results == [("hi", "stop")] * 3
    assert len(bodies) == len(refusals) + 3
    assert all(body.keys() == {"model", "messages", *left} for body in bodies[len(refusals) :])
    assert len(notices) == len(set(notices)) == len(refusals)


TOO_MANY_TOKENS = {
    "text-generation-inference": (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be "
                                        "<= 2048. Given: 1500 `inputs` tokens and 1024 `max_new_tokens`"}),
    "DeepSeek": error(400, "Invalid max_tokens value, the valid range of max_tokens is [1, 80]"),
    "Alibaba": error(400, "Range of max_tokens should be [1, 80]", code="invalid_parameter_error"),
    "Anthropic": error(400, "max_tokens: 99 > 80, which is the maximum allowed number of output tokens for claude"),
    "Groq": error(413, "Request too large for model `m` on tokens per minute (TPM): Limit 100, Requested 140, please "
                       "reduce your message size and try again.", code="rate_limit_exceeded"),
    "SGLang": (400, {"object": "error", "message": "Requested token count exceeds the model's maximum context length "
                     "of 120 tokens. You requested a total of 140 tokens: 41 from the input, 99 for the completion."}),
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_MANY_TOKENS)
def test_more_tokens_than_a_server_gives_are_asked_for_with_fewer(name, asked):
    result, _, bodies = asked([TOO_MANY_TOKENS[name]])
    assert result == ("hi", "stop")
    assert [body["max_tokens"] for body in bodies] == [99, 79]


def test_an_error_under_status_200_is_an_error(asked, waits):
    upstream = (200, {"error": {"code": 502, "message": "Provider returned error"}})
    in_choice = (200, {"choices": [{"message": {"content": ""}, "error": {"code": 429, "message": "later"}}]})
    assert asked([upstream, in_choice, (200, {"object": "error", "message": "busy"})])[0] == ("hi", "stop")
    assert len(waits) == 3
    unknown = (200, {"error": "Unexpected endpoint or method. (POST /chat/completions)"})
    for do_stream in (False, True):
        with pytest.raises(UserError, match=r"no such address .* OPENAI_BASE_URL mostly ends in /v1"):
            asked([unknown], do_stream)


GEMINI = [
    {
        "error": {
            "code": 429,
            "message": "You exceeded your current quota, please check your plan and billing details.",
            "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "19s"}],
        }
    }
]


@pytest.mark.parametrize(
    ("refusal", "wait_sec"),
    [
        ((429, GEMINI), 19),
        (error(429, "Rate limit reached. Please try again in 6.5s. Add a payment method: /account/billing."), 6.5),
        (error(429, "Please retry after 20 seconds. See billing."), 20),
        (error(429, "Please try again in 1m2s."), 62),
        ((*error(429, "You exceeded your current quota, check billing. Try again in 50s"), {"Retry-After": "3"}), 3),
    ],
)
def test_a_limit_per_minute_is_waited_for_whatever_its_words(refusal, wait_sec, asked, waits):
    assert asked([refusal])[0] == ("hi", "stop")
    assert waits[0] == pytest.approx(wait_sec, rel=0.11)


def test_a_limit_per_day_ends_the_run(asked):
    with pytest.raises(UserError, match="asks to wait 36000 s"):
        asked([error(429, "You exceeded your current quota. Please retry in 10h0m0s.")])


def test_a_model_of_the_responses_api_alone_is_explained(asked):
    message = "This model is only supported in v1/responses and not in v1/chat/completions."
    with pytest.raises(UserError, match="Responses API only") as raised:
        asked([error(404, message)], api="auto")
    assert "mostly ends" not in str(raised.value)


FILTERED = [
    error(
        400, "The response was filtered.", code="content_filter", innererror={"code": "ResponsibleAIPolicyViolation"}
    ),
    error(403, "openai/gpt-4 requires moderation. Your input was flagged for violence."),
    error(400, "Content Exists Risk"),
    error(400, "This model's maximum context length is 100 tokens, and your request has 90 input tokens"),
]


@pytest.mark.parametrize("refusal", FILTERED)
def test_a_refused_prompt_is_told_from_a_refusal_of_all_until_many_come_in_a_row(refusal, asked):
    with pytest.raises(PromptRefused):
        asked([refusal] * 3)
    with pytest.raises(UserError, match="10 prompts in a row were refused; the last: "):
        asked([refusal] * 100, prompts=10, passes_over=[PromptRefused])


def test_a_short_key_is_not_looked_for_in_the_servers_words(asked, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k")  # such as a server without keys is given
    assert asked(REFUSALS["GPT-5"][:1])[2][1].keys() == {"model", "messages", "max_completion_tokens"}
