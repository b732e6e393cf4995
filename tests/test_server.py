"""The OpenAI client of the scripts: where it looks, what it asks again, what ends a run."""

import asyncio
import email.utils
import time

import pytest

import utils
from data.openai_server import FAULTS, OpenAIServer
from utils import UnusableAnswer, UserError, ask_server, openai_client

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

    monkeypatch.setattr(utils.asyncio, "sleep", sleep)
    return waits_sec


def ask(server, notices=None, model_name="local", **options):
    """One chat request through ask_server to server."""

    async def run():
        async with openai_client() as client:
            messages = [{"role": "user", "content": "hello"}]

            async def send():
                reply = await client.chat.completions.create(model=model_name, messages=messages)
                if not getattr(reply, "choices", None):
                    raise UnusableAnswer("no choices")
                return reply.choices[0].message.content

            return await ask_server(send, model_name, ([] if notices is None else notices).append, **options)

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
        assert ask(server) == "hi"


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
        assert ask(server, notices) == "hi"
    assert len(waits) == len(notices) == 3
    assert 0.25 <= waits[0] <= 0.75 <= 1.0 <= waits[2] <= 3.0  # 0.5, 1 and 2 seconds, half more or less
    assert "retry 1 of 7" in notices[0]


def test_after_seven_retries_the_last_reason_ends_the_run(environment, waits):
    with OpenAIServer(None, faults=lambda number: "overloaded") as server:
        environment(**server.environment)
        with pytest.raises(UserError, match=r"8 attempts in a row failed; the last: 503: That model is currently"):
            ask(server)
        assert len(server.requests) == 8
    assert max(waits) <= 1.5 * utils.MAX_WAIT_SEC


def test_an_unreachable_server_is_named(environment, waits):
    environment(OPENAI_BASE_URL="http://127.0.0.1:9/v1")  # nobody listens there
    with pytest.raises(UserError, match=r"8 attempts in a row failed; the last: http://127\.0\.0\.1:9/v1/chat.*"):
        ask(None)


def test_a_silent_server_is_given_up_after_the_time_limit(environment, monkeypatch, waits):
    monkeypatch.setattr(utils, "REQUEST_TIMEOUT_SEC", 0.3)
    with OpenAIServer(lambda prompt: "hi", faults=lambda number: "silent" if number == 0 else None) as server:
        environment(**server.environment)
        notices = []
        assert ask(server, notices) == "hi"
    assert "timed out" in notices[0]


def test_the_wait_that_a_server_asks_for_is_kept(environment, waits):
    in_40_sec = email.utils.formatdate(time.time() + 40, usegmt=True)
    for header, lowest in [("4", 4.0), (in_40_sec, 37.0)]:
        body = FAULTS["rate limit"]
        fault = (*body, {"Retry-After": header})
        waits.clear()
        with OpenAIServer(lambda prompt: "hi", faults=lambda number, f=fault: f if number == 0 else None) as server:
            environment(**server.environment)
            assert ask(server) == "hi"
        assert lowest <= waits[0] <= 1.2 * lowest + 3


def test_a_server_that_asks_for_a_very_long_wait_ends_the_run(environment, waits):
    fault = (*FAULTS["rate limit"], {"Retry-After": "86400"})
    with OpenAIServer(None, faults=lambda number: fault) as server:
        environment(**server.environment)
        with pytest.raises(UserError, match="asks to wait 86400 s"):
            ask(server)
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
            ask(server)
        assert len(server.requests) == 1
    assert waits == []


def test_the_retired_default_model_is_explained(environment):
    with OpenAIServer(None, faults=lambda number: "unknown model") as server:
        environment(**server.environment)
        with pytest.raises(UserError) as error:
            ask(server, model_name="text-davinci-003")
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
            ask(server, notices)
    assert key not in str(error.value) + "".join(notices)
    assert "***" in str(error.value)


def test_an_error_that_the_caller_handles_is_passed_on(environment):
    import openai

    with OpenAIServer(None, faults=lambda number: (404, {"detail": "Not Found"})) as server:
        environment(**server.environment)
        with pytest.raises(openai.NotFoundError):
            ask(server, caller_handles=(404,))
