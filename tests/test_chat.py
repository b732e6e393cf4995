"""A conversation with a model in the terminal: it streams, goes on after a refusal or a stop, and names a bad line."""

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

import demo
from data.openai_server import OpenAIServer
from tests.helpers import forks
from tests.helpers.commands import ROOT, UNENDING, assert_fails_in_one_line
from utils import UserError


def test_a_line_that_is_not_utf_8_is_named():
    with pytest.raises(UserError, match=r"standard input, line 2, byte 3: not UTF-8"):
        demo.answer_lines([b"Say hi.\n", b"caf\xe9\n"], lambda instruction, input: None)


def test_a_conversation_in_the_terminal_streams_from_a_server():
    with OpenAIServer(lambda prompt: f"re: {prompt} \x1b[31m red") as server:
        result = forks.run("demo.py", "chat", "--model_name", "m", stdin="Say hi.\tto all\n", **server.environment)
    assert result.returncode == 0, result.stderr
    assert "Response: re: Say hi.\n\n### Input:\nto all [31m red\n" in result.stdout  # no escape code for the terminal
    assert_fails_in_one_line(
        forks.run("demo.py", "chat", "--model_name", "m", OPENAI_BASE_URL=server.url), "no server at"
    )


def test_a_line_that_a_server_refuses_leaves_the_next_its_answer():
    message = {"role": "assistant", "content": "<think>Hm</think>\n\nIn one piece."}
    plain = (200, {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]})
    faults = {0: (400, {"error": {"message": "Your input was flagged."}}), 1: plain}
    with OpenAIServer(lambda prompt: "<think> Hm. </think> Word by word.", faults=faults.get) as server:
        result = forks.run("demo.py", "chat", "--model_name", "m", stdin="a\nb\nc\n", **server.environment)
    assert result.returncode == 0, result.stderr
    assert "Your input was flagged.).]\n" in result.stdout
    assert result.stdout.endswith(
        "Instruction: b\nResponse: In one piece.\n\nInstruction: c\nResponse: Word by word.\n\n"
    )


def test_a_conversation_in_the_terminal_goes_on_after_a_response_is_stopped(slow_llama):
    terminal, other_end = pty.openpty()
    command = [sys.executable, "demo.py", "chat", "--model_name_or_path", slow_llama, *UNENDING]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=other_end, stdout=other_end, stderr=other_end, start_new_session=True
    )
    os.close(other_end)
    printed = b""

    def read_until(text: bytes) -> None:
        nonlocal printed
        while text not in printed:
            assert select.select([terminal], [], [], 60)[0], printed
            printed += os.read(terminal, 1 << 16)
        printed = printed.partition(text)[2]

    try:
        read_until(b"Model: ")
        read_until(b"asked with the Alpaca prompt")
        read_until(b"Ctrl-D ends the conversation.")
        read_until(b"Instruction: ")
        os.write(terminal, b"Forget")
        read_until(b"Forget")
        time.sleep(0.5)  # until the line's reader waits for the next key
        process.send_signal(signal.SIGINT)  # drops the line, and ends nothing
        read_until(b"Instruction: ")
        os.write(terminal, b"Say ho\x7fi.\n")  # a line is edited
        read_until(b"Input (Enter for none): ")
        os.write(terminal, b"\n")
        read_until(b"Response: ")
        while not printed:
            printed += os.read(terminal, 1 << 16)
        process.send_signal(signal.SIGINT)
        read_until(b"[stopped]")
        read_until(b"Instruction: ")
        os.write(terminal, b"\x04")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
