"""A model behind a server: where it is looked for, how it is asked, what is asked again, what ends a run."""

import asyncio
import contextlib
import email.utils
import time

import pytest

import demo
from alpaca.inference import server as module
from alpaca.inference.local import Decoding
from alpaca.inference.refusals import retry_after_sec
from alpaca.inference.server import ServerModel, openai_client
from data.openai_server import FAULTS, OpenAIServer
from utils import UserError

NAMES = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_ORG")


@pytest.fixture
def environment(monkeypatch):
    """Sets the given variables, and removes the others that the client reads."""

    def set_variables(**variables):
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    set_variables()
    return set_variables


@pytest.fixture
def waits(monkeypatch):
    """The waits between attempts, in seconds, which take no time here."""
    waits_sec = []

    async def sleep(seconds):
        waits_sec.append(seconds)

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    return waits_sec


def ask(notices=None, model_name="local", api="chat", prompts=("hello",), max_tokens=100, **decoding):
    """The texts with which a new model answers the prompts, one request after the other."""
    model = ServerModel(model_name, api, ([] if notices is None else notices).append)

    async def run():
        return [(await model.complete([p], max_tokens=max_tokens, **decoding)).completions[0][0] for p in prompts]

    return asyncio.run(run())


def test_key_endpoint_and_organization_come_from_the_environment(environment):
    environment(OPENAI_API_KEY="k", OPENAI_ORG="org-1")
    client = openai_client()
    assert (client.api_key, client.organization, str(client.base_url)) == ("k", "org-1", "https://api.openai.com/v1/")
    environment(OPENAI_API_KEY="k", OPENAI_ORG="org-1", OPENAI_ORG_ID="org-2", OPENAI_BASE_URL="http://127.0.0.1:1/v1")
    client = openai_client()
    assert (client.organization, str(client.base_url)) == ("org-2", "http://127.0.0.1:1/v1/")


def test_an_endpoint_without_a_key_is_enough(environment):
    with OpenAIServer(lambda prompt: "hi") as server:
        environment(OPENAI_BASE_URL=server.url)
        assert ask() == ["hi"]


def test_neither_key_nor_endpoint_is_an_error_that_names_the_key(environment):
    environment(OPENAI_API_KEY=" ")
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        openai_client()


def test_an_endpoint_without_its_scheme_is_an_error(environment):
    environment(OPENAI_BASE_URL="localhost:8000/v1")
    with pytest.raises(UserError, match=r"OPENAI_BASE_URL is 'localhost:8000/v1'"):
        openai_client()


PASSING = ["rate limit", "server error", "overloaded", "no choices", "not JSON", "dropped", "cut"]


@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_is_asked_again(fault, environment, waits):
    with OpenAIServer(lambda prompt: "hi", faults=lambda number: fault if number < 3 else None) as server:
        environment(**server.environment)
        notices = []
        assert ask(notices) == ["hi"]
    assert len(waits) == len(notices) == 3
    assert 0.25 <= waits[0] <= 0.75 <= 1.0 <= waits[2] <= 3.0  # 0.5, 1 and 2 seconds, half more or less
    assert "retry 1 of 7" in notices[0]


def test_after_seven_retries_the_last_reason_ends_the_run(environment, waits):
    with OpenAIServer(None, faults=lambda number: "overloaded") as server:
        environment(**server.environment)
        with pytest.raises(UserError, match=r"8 attempts in a row failed; the last: 503: That model is currently"):
            ask()
        assert len(server.requests) == 8
    assert max(waits) <= 1.5 * module.MAX_WAIT_SEC


def test_an_unreachable_server_is_named(environment, waits):
    environment(OPENAI_BASE_URL="http://127.0.0.1:9/v1")  # nobody listens there
    with pytest.raises(UserError, match=r"8 attempts in a row failed; the last: http://127\.0\.0\.1:9/v1/chat.*"):
        ask()


def test_a_silent_server_is_given_up_after_the_time_limit(environment, monkeypatch, waits):
    monkeypatch.setattr(module, "REQUEST_TIMEOUT_SEC", 0.3)
    with OpenAIServer(lambda prompt: "hi", faults=lambda number: "silent" if number == 0 else None) as server:
        environment(**server.environment)
        notices = []
        assert ask(notices) == ["hi"]
    assert "timed out" in notices[0]


def test_the_wait_that_a_server_asks_for_is_kept(environment, waits):
    in_40_sec = email.utils.formatdate(time.time() + 40, usegmt=True)
    for header, lowest in [("4", 4.0), (in_40_sec, 37.0)]:
        body = FAULTS["rate limit"]
        fault = (*body, {"Retry-After": header})
        waits.clear()
        with OpenAIServer(lambda prompt: "hi", faults=lambda number, f=fault: f if number == 0 else None) as server:
            environment(**server.environment)
            assert ask() == ["hi"]
        assert lowest <= waits[0] <= 1.2 * lowest + 3


def test_a_limit_that_lets_others_through_ends_no_request(environment, waits):
    with OpenAIServer(lambda prompt: f"re: {prompt}", faults=lambda n: "rate limit" if n % 6 else None) as server:
        environment(**server.environment)
        model = ServerModel("local", "chat", lambda text: None)

        async def run():
            async def ask(prompt):
                return (await model.complete([prompt], max_tokens=9)).completions[0][0]

            return [answer async for _, answer in module.as_answered(map(str, range(40)), ask, 8)]

        assert sorted(asyncio.run(run())) == sorted(f"re: {number}" for number in range(40))


def test_a_server_that_asks_for_a_very_long_wait_ends_the_run(environment, waits):
    fault = (*FAULTS["rate limit"], {"Retry-After": "86400"})
    with OpenAIServer(None, faults=lambda number: fault) as server:
        environment(**server.environment)
        with pytest.raises(UserError, match="asks to wait 86400 s"):
            ask()
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("wrong key", "does not accept the key in OPENAI_API_KEY"),
        ("no permission", "denies permission"),
        ("unknown model", "has no model 'local'"),
        ("no quota", "quota .* is exhausted"),
        ((429, {"error": {"message": "No more", "code": "insufficient_quota"}}), "quota .* is exhausted"),
        ((402, {"error": {"message": "Pay first"}}), "quota .* is exhausted"),
        ((400, {"detail": "no"}), "refuses the request"),
        ((404, {"detail": "Not Found"}), "OPENAI_BASE_URL mostly ends in /v1"),
    ],
)
def test_a_final_refusal_ends_the_run_at_once(fault, words, environment, waits):
    with OpenAIServer(None, faults=lambda number: fault) as server:
        environment(**server.environment)
        with pytest.raises(UserError, match=words):
            ask()
        assert len(server.requests) == 1
    assert waits == []


def test_the_retired_default_model_is_explained(environment):
    with OpenAIServer(None, faults=lambda number: "unknown model") as server:
        environment(**server.environment)
        with pytest.raises(UserError) as error:
            ask(model_name="text-davinci-003")
    for words in ("retired", "January 2024", "--model_name", "OPENAI_BASE_URL", "vLLM", "llama.cpp", "Ollama"):
        assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_key_that_the_server_repeats_is_not_shown(environment, waits):
    key = "sk-very-secret"
    echo = (500, {"error": {"message": f"cannot\nhandle {key}"}})
    with OpenAIServer(
        None, faults=lambda number: echo if number < 2 else (401, {"detail": f"bad key {key}"})
    ) as server:
        environment(OPENAI_BASE_URL=server.url, OPENAI_API_KEY=key)
        notices = []
        with pytest.raises(UserError) as error:
            ask(notices)
    assert key not in str(error.value) + "".join(notices)
    assert "***" in str(error.value)


def test_neither_a_key_nor_a_password_nor_a_query_is_shown_or_logged(environment, waits):
    key = "sk-very-secret"
    repeats = (200, {"echo": f"Bearer {key}"})
    with OpenAIServer(lambda prompt: "hi", faults=lambda number: repeats if number == 0 else None) as server:
        address = server.url.replace("http://", "http://me:pass-word@") + "?token=abc123"
        environment(OPENAI_BASE_URL=server.url, OPENAI_API_KEY=key)
        notices = []
        assert ask(notices, model_name=f"model of {key}") == ["hi"]
        assert "***" in notices[0]
        answer = asyncio.run(ServerModel(f"model of {key}", "chat", notices.append).complete(["a"], max_tokens=9))
        assert answer.model == "model of ***"
    environment(OPENAI_BASE_URL=address, OPENAI_API_KEY=key)
    with pytest.raises(UserError) as error:
        asyncio.run(ServerModel("m", "chat", notices.append).check_reachable())
    shown = str(error.value) + "".join(notices)
    for secret in (key, "pass-word", "abc123"):
        assert secret not in shown
    environment(OPENAI_BASE_URL=server.url, OPENAI_API_KEY="sk-\nX: y")
    with pytest.raises(UserError, match="OPENAI_API_KEY holds a character that no HTTP header can carry"):
        openai_client()


def test_control_characters_of_a_server_are_not_shown(environment, waits):
    fault = (500, {"error": {"message": "\x1b[2J\x1b]0;owned\x07 bad\u202e"}})
    with OpenAIServer(lambda prompt: "hi", faults=lambda number: fault if number == 0 else None) as server:
        environment(**server.environment)
        notices = []
        ask(notices)
    assert notices[0].startswith("500: [2J]0;owned bad; retry 1")


def test_a_redirect_to_another_host_is_refused_and_one_within_it_followed(environment):
    with OpenAIServer(lambda prompt: "hi") as server:
        elsewhere = server.url.replace("127.0.0.1", "localhost") + "/chat/completions"
        for target, is_own in ((elsewhere, False), (f"{server.url}/chat/completions", True)):
            fault = (307, {}, {"Location": target})
            with OpenAIServer(lambda prompt: "hi", faults=lambda number, f=fault: f) as first:
                environment(**first.environment)
                if is_own:
                    assert ask() == ["hi"]
                else:
                    with pytest.raises(UserError, match=r"sends on to http://localhost.*another host"):
                        ask()
        assert len(server.requests) == 1


def test_an_answer_without_end_and_one_that_inflates_are_ended(environment, waits, monkeypatch):
    monkeypatch.setattr(module, "MAX_BODY_BYTES", 1000)
    for fault, words in (
        ((200, "x" * 5000), "an answer of more than"),
        ((200, "{}", {"Content-Encoding": "gzip"}), "compresses its answer"),
    ):
        with OpenAIServer(None, faults=lambda number, f=fault: f) as server:
            environment(**server.environment)
            with pytest.raises(UserError, match=words):
                ask()
            assert len(server.requests) == 1


def test_a_whole_request_has_a_deadline(environment, monkeypatch):
    monkeypatch.setattr(module, "REQUEST_TIMEOUT_SEC", 0.5)
    monkeypatch.setattr(module, "MAX_RETRIES", 1)
    sleep = asyncio.sleep

    async def dribble(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                writer.write(b" ")
                await writer.drain()
                await sleep(0.1)

    async def run():
        async with await asyncio.start_server(dribble, "127.0.0.1", 0) as server:
            environment(OPENAI_BASE_URL=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
            with pytest.raises(UserError, match=r"timed out|takes more than"):
                await ServerModel("m", "chat", lambda text: None).complete(["a"], max_tokens=9)

    asyncio.run(run())


@pytest.mark.parametrize(("name", "value"), [("OPENAI_BASE_URL", "http://[::1/v1"), ("ALL_PROXY", "odd://x")])
def test_odd_addresses_and_proxies_are_one_error(name, value, environment, monkeypatch):
    environment(OPENAI_API_KEY="k", OPENAI_BASE_URL="http://127.0.0.1:1/v1")
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{name}.* cannot be used"):
        openai_client()


# How a server wants to be asked


@pytest.mark.parametrize(("first", "second"), [("chat", "completions"), ("completions", "chat")])
def test_auto_goes_on_with_the_api_that_there_is(first, second, environment):
    no_such_api = (404, {"detail": "Not Found"})
    with OpenAIServer(lambda prompt: f"re: {prompt}", faults=lambda n: no_such_api if n == 0 else None) as server:
        environment(**server.environment)
        notices = []
        model = ServerModel("local", "auto", notices.append, auto_apis=(first, second))

        async def run():
            return [await model.complete(["a"], "b", max_tokens=9) for _ in range(2)]

        answers = asyncio.run(run())
    assert [answer.api for answer in answers] == [second, second]
    assert [answer.completions for answer in answers] == [[("re: b" if second == "chat" else "re: a", "stop")]] * 2
    assert notices == [f"local does not take the {first} API: going on with the {second} API"]


@pytest.mark.parametrize(
    ("message", "decoding", "arguments"),
    [
        ("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", {}, {"max_completion_tokens"}),
        ("'top_p' is not supported", {"temperature": 0, "top_p": 1.0}, {"max_tokens", "temperature"}),
        ("'temperature' is not supported", {"temperature": 1.0, "top_p": 0.5}, {"max_tokens", "top_p"}),
        ("'stop' is not supported", {"stop": ["###"], "n": 1}, {"max_tokens", "n"}),
    ],
)
def test_what_a_server_refuses_is_left_out_from_then_on(message, decoding, arguments, environment):
    refusal = (400, {"error": {"message": message}})
    with OpenAIServer(lambda prompt: "hi", faults=lambda number: refusal if number == 0 else None) as server:
        environment(**server.environment)
        assert ask(prompts=["a", "b"], **decoding) == ["hi", "hi"]
    assert len(server.requests) == 3
    for request in server.requests[1:]:
        assert set(request["body"]) == {"model", "messages", *arguments}


def test_a_temperature_that_was_chosen_is_never_left_out(environment):
    refusal = (400, {"error": {"message": "'temperature' has to be 1"}})
    with OpenAIServer(None, faults=lambda number: refusal) as server:
        environment(**server.environment)
        with pytest.raises(UserError, match="refuses the request"):
            ask(temperature=0.7)
    assert len(server.requests) == 1


NUMBERLESS = (400, {"error": {"message": "This request is too long."}})


def sizes(server) -> list[int]:
    return [request["body"]["max_tokens"] for request in server.requests]


def test_a_size_that_was_too_long_is_not_tried_again_behind_as_long_a_prompt(environment):
    with OpenAIServer(lambda prompt: "hi", context_tokens=1000) as server:
        environment(**server.environment)
        ask(prompts=["word " * 100, "word " * 90, "word " * 110], max_tokens=3072)
    assert sizes(server) == [3072, 804, 804, 804]  # the numbers in the refusal spare the ladder


def test_a_ladder_without_numbers_is_climbed_down_once(environment):
    with OpenAIServer(lambda prompt: "hi", faults=lambda number: NUMBERLESS if number < 3 else None) as server:
        environment(**server.environment)
        ask(prompts=["word " * 100] * 3, max_tokens=3072)
    assert sizes(server) == [3072, 2457, 1965, 1572, 1572, 1572]


def test_a_shorter_prompt_still_gets_all_that_fits(environment):
    with OpenAIServer(lambda prompt: "hi", context_tokens=3300) as server:
        environment(**server.environment)
        ask(prompts=["word " * 300, "word " * 200, "word " * 310], max_tokens=3072)
    assert sizes(server) == [3072, 2457, 3072, 2457]


def test_where_not_even_a_short_answer_fits_the_refusal_ends_the_run(environment):
    with OpenAIServer(None, context_tokens=100) as server:
        environment(**server.environment)
        with pytest.raises(UserError, match="maximum context length is 100 tokens"):
            ask(prompts=["word " * 100], max_tokens=3072)
    assert sizes(server) == [3072, 67]


# Connections that end early

EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "word "}}]}\n\n'
BEGINNING = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(EVENT), EVENT)


@contextlib.asynccontextmanager
async def begins_to_answer(environment, beginning: bytes = BEGINNING, breaks_off: bool = False):
    """A server that sends the beginning of an answer, and a list that grows with each client that has gone."""
    gone = []

    async def serve(reader, writer):
        await reader.readuntil(b"}")
        writer.write(beginning)
        if not breaks_off:
            await reader.read()  # to the client's end
            gone.append(True)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        environment(OPENAI_BASE_URL=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", no_proxy="127.0.0.1")
        yield gone


async def wait_for(gone: list, number: int) -> None:
    async with asyncio.timeout(10):
        while len(gone) < number:
            await asyncio.sleep(0.02)


def test_a_stream_that_is_closed_closes_its_connection(environment):
    async def run() -> None:
        async with begins_to_answer(environment) as gone:
            responses = ServerModel("m", "chat", print).stream("p", "p", max_tokens=9)
            assert await anext(responses) == ("word ", "")
            await responses.aclose()
            await wait_for(gone, 1)

    asyncio.run(run())


def test_requests_that_are_given_up_close_their_connections(environment):
    async def run() -> None:
        async with begins_to_answer(environment, beginning=b"") as gone:
            model = ServerModel("m", "chat", print)
            answers = module.as_answered(["p"] * 3, lambda prompt: model.complete([prompt], max_tokens=9), 3)
            waiting = asyncio.create_task(anext(answers))
            await asyncio.sleep(0.5)
            waiting.cancel()
            await wait_for(gone, 3)

    asyncio.run(run())


def test_a_stream_that_breaks_in_the_middle_is_an_error(environment):
    async def run() -> None:
        async with begins_to_answer(environment, breaks_off=True):
            async for response, _ in ServerModel("m", "chat", print).stream("p", "p", max_tokens=9):
                assert response == "word "

    with pytest.raises(UserError, match="the server broke off: the connection broke: "):
        asyncio.run(run())


@pytest.mark.parametrize("asked", ["Mon, 99 Foo 99999 99:99:99 GMT", "nan", "-5", "soon", "\xff", "1 " * 5000])
def test_an_odd_retry_after_asks_for_no_wait(asked):
    assert retry_after_sec({"retry-after": asked}) == 0


def test_a_page_asks_its_server_through_one_client_whatever_the_sliders_say(environment, monkeypatch):
    clients = []
    monkeypatch.setattr(module, "openai_client", lambda make=openai_client: clients.append(make()) or clients[-1])
    with OpenAIServer(lambda prompt: "hi") as server:
        environment(**server.environment)
        respond = demo.responder(None, "m", "chat", None)[1]

        async def slide() -> None:
            for temperature in (0.1, 0.2, 0.3):
                async with contextlib.aclosing(respond("Say hi.", "", Decoding(8, temperature))) as responses:
                    assert [text async for text, _ in responses][-1] == "hi"

        asyncio.run(slide())
    assert len(clients) == 2  # one has looked whether the server is there
