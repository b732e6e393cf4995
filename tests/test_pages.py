"""The two web pages as people meet them: Chromium, keyboard and mouse, several at once, kills and restarts."""

import contextlib
import http.client
import itertools
import json
import signal
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from alpaca.evaluation.predictions import Pair, Task
from alpaca.evaluation.rating_page import PAUSE_MS, BlindEvaluation
from alpaca.evaluation.results import human_table
from alpaca.row_files import AppendOnlyFile
from data.openai_server import OpenAIServer
from tests.helpers import forks
from tests.helpers.browser import Recorder, browser, low_contrast, resize, wait_for, wait_for_port
from tests.helpers.commands import UNENDING, assert_fails_in_one_line, free_port, run_script

HOSTILE = "<img src=x onerror=\"document.title='broken'\"> ${1+1} {{value}} <b>bold</b> & more"
MARKDOWN = f"""# Steps

1. **First**, {HOSTILE}
2. ![remote](http://127.0.0.2/x.png) [link](javascript:alert(1)) <script>document.title = 'broken'</script>

```python
def __init__(self):
    return "<script>document.title = 'broken'</script>"
```"""
COUNT = "return document.querySelectorAll(arguments[0]).length"
NAMES = ("secret-model-alpha", "secret-model-beta")
NUM_PAIRS = 4
# Votes on pair 1, once more while the vote is under way, and once more as soon as pair 2 shows.
IMPATIENT = """
const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
press("1");
press("2");
const timer = setInterval(() => {
  if (!document.body.innerText.includes("Pair 2 of 4")) return;
  clearInterval(timer);
  press("2");
  arguments[0]();
}, 10);
"""
BOX = "return arguments[0].getBoundingClientRect().toJSON()"


@pytest.fixture
def predictions(tmp_path):
    paths = []
    for name, mark, more in zip(NAMES, ("ALPHA", "BETA"), ("", f"\n\n{MARKDOWN}"), strict=True):
        path = tmp_path / f"{name}.json"
        entries = [
            {"instruction": f"Task {i}", "input": "with input" if i else "", "output": f"{mark} {i} {HOSTILE}{more}"}
            for i in range(NUM_PAIRS)
        ]
        path.write_text(json.dumps([{**entry, "generator": name} for entry in entries]))
        paths.append(path)
    return paths


@contextlib.contextmanager
def served(*arguments, **environment):
    """A page's server as a process; its port. Ended with Ctrl-C unless the test has killed it."""
    port = free_port()
    process = forks.Forks(forks.python(*arguments, "--port", port), **environment)
    process.port = port
    try:
        wait_for_port(port, process)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.printed, process.complained = process.communicate(timeout=60)


def human_flags(predictions, votes):
    flags = ("--predictions_1", predictions[0], "--predictions_2", predictions[1], "--output_path", votes)
    return ("compare.py", "human", *flags)


def votes_in(path):
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def element(driver, selector):
    from selenium.webdriver.common.by import By

    return wait_for(
        lambda: next((e for e in driver.find_elements(By.CSS_SELECTOR, selector) if e.is_displayed()), None)
    )


def text_of(driver) -> str:
    from selenium.webdriver.common.by import By

    return driver.find_element(By.TAG_NAME, "body").text


def press(driver, keys) -> None:
    """Press a key, no sooner after a pair shows than the page takes it for meant."""
    from selenium.webdriver.common.by import By

    time.sleep(PAUSE_MS / 1000 + 0.1)
    driver.find_element(By.TAG_NAME, "body").send_keys(keys)


def requested_elsewhere(driver) -> list[str]:
    """Addresses outside this machine that the page asked for."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if url.startswith("http") and not url.startswith("http://127.0.0.1:")]


def assert_fits(driver, width: int) -> None:
    """Nothing is wider than the window, and the texts are large enough to be read."""
    resize(driver, width, 844)
    wait_for(lambda: driver.execute_script("return document.documentElement.scrollWidth") == width)


def assert_only_shown(driver, selector: str) -> None:
    """The MARKDOWN beneath selector has its headings, lists and code, and nothing of it has become anything else."""

    def count(*kinds: str) -> int:
        return driver.execute_script(COUNT, ", ".join(f"{selector} .markdown {kind}" for kind in kinds))

    assert [count(kind) for kind in ("h1", "ol li", "strong", "pre code")] == [1, 2, 1, 1]
    assert count("img", "script", "a", "iframe", "b", "[onerror]", "[style]", "[href]", "[src]") == 0
    shown = element(driver, f"{selector} .markdown").text
    assert HOSTILE in shown
    assert "![remote](http://127.0.0.2/x.png) [link](javascript:alert(1)) <script>" in shown
    assert 'def __init__(self):\n    return "<script>' in shown


def test_a_rater_goes_all_the_way_and_learns_nothing_of_the_models(predictions, tmp_path):
    from selenium.webdriver.common.keys import Keys

    votes = tmp_path / "votes.jsonl"
    with served(*human_flags(predictions, votes)) as server, browser(tmp_path / "profile") as driver:
        relay = Recorder(server.port)
        driver.get(f"http://127.0.0.1:{relay.port}")
        element(driver, "input, textarea").send_keys("anna" + Keys.ENTER)
        actions = [
            lambda: press(driver, "1"),
            lambda: press(driver, Keys.ARROW_RIGHT),
            lambda: (time.sleep(0.6), element(driver, "#vote-tie").click()),
            lambda: press(driver, "s"),
        ]
        for number, act in enumerate(actions, start=1):
            wait_for(lambda number=number: f"Pair {number} of 4" in text_of(driver))
            assert text_of(driver).count(HOSTILE) == 3  # as text, character for character
            assert_only_shown(driver, ".responses")
            for width in (390, 1280):
                assert_fits(driver, width)
            assert len(votes_in(votes)) == number - 1
            act()
            # On disk before the next pair shows.
            wait_for(lambda number=number: f"Pair {number} of 4" not in text_of(driver))
            assert len(votes_in(votes)) == number
        wait_for(lambda: "All 4 pairs are done" in text_of(driver))
        assert driver.title == "Which response is better?"
        assert requested_elsewhere(driver) == []
        traffic = bytes(relay.recorded)
        relay.close()
        assert b"ALPHA 1" in traffic  # it was recorded
        for hint in (b"secret-model", b"predictions", b"model_1", b"model_2"):
            assert hint not in traffic
            assert hint.decode() not in driver.page_source
    assert [row["verdict"] for row in votes_in(votes)] == ["first", "second", "tie", "skip"]
    assert "secret-model-alpha  against  secret-model-beta" in server.printed
    assert "skipped            1 of 4" in server.printed
    assert "ties               1  (33.3%)" in server.printed
    assert "Traceback" not in server.complained


def test_votes_survive_a_kill_and_the_rater_goes_on_where_it_was(predictions, tmp_path):
    from selenium.webdriver.common.keys import Keys

    votes = tmp_path / "votes.jsonl"
    with browser(tmp_path / "profile") as driver:
        with served(*human_flags(predictions, votes)) as server:
            driver.get(f"http://127.0.0.1:{server.port}")
            element(driver, "input, textarea").send_keys("anna" + Keys.ENTER)
            wait_for(lambda: "Pair 1 of 4" in text_of(driver))
            press(driver, "1")
            wait_for(lambda: "Pair 2 of 4" in text_of(driver))
            server.kill()
        shown_before = text_of(driver).partition("Response 1")[0]
        with served(*human_flags(predictions, votes)) as server:
            driver.get(f"http://127.0.0.1:{server.port}")
            element(driver, "input, textarea").send_keys("anna" + Keys.ENTER)
            wait_for(lambda: "Pair 2 of 4" in text_of(driver))
            assert text_of(driver).partition("Response 1")[0] == shown_before
            for number in (2, 3, 4):
                wait_for(lambda number=number: f"Pair {number} of 4" in text_of(driver))
                press(driver, "2")
            wait_for(lambda: "All 4 pairs are done" in text_of(driver))
    rows = votes_in(votes)
    assert len(rows) == len({row["instruction"] for row in rows}) == 4


def test_a_slip_can_be_taken_back_and_a_second_press_does_not_vote_on_the_next_pair(predictions, tmp_path):
    from selenium.webdriver.common.keys import Keys

    votes = tmp_path / "votes.jsonl"
    with served(*human_flags(predictions, votes)) as server, browser(tmp_path / "profile") as driver:
        driver.get(f"http://127.0.0.1:{server.port}")
        assert low_contrast(driver) == []
        element(driver, "input, textarea").send_keys("anna" + Keys.ENTER)
        wait_for(lambda: "Pair 1 of 4" in text_of(driver))
        first_pair = element(driver, "#task").text
        time.sleep(1)
        driver.execute_async_script(IMPATIENT)
        time.sleep(1)
        assert len(votes_in(votes)) == 1
        press(driver, "b")
        wait_for(lambda: "Pair 1 of 4" in text_of(driver))
        assert element(driver, "#task").text == first_pair
        assert_easy_to_read(driver)
        for number, key in enumerate("2210", start=1):
            wait_for(lambda number=number: f"Pair {number} of 4" in text_of(driver))
            press(driver, key)
        wait_for(lambda: "All 4 pairs are done" in text_of(driver))
        element(driver, "#back-from-end").click()
        wait_for(lambda: "Pair 4 of 4" in text_of(driver))
        press(driver, "s")
        wait_for(lambda: "All 4 pairs are done" in text_of(driver))
    verdicts = [row["verdict"] for row in votes_in(votes)]
    assert verdicts == ["first", "withdrawn", "second", "second", "first", "tie", "withdrawn", "skip"]
    assert "pairs              3" in server.printed
    assert "skipped            1 of 4" in server.printed
    assert "anna (4)" in server.printed


def assert_easy_to_read(driver) -> None:
    """Contrast, and on a telephone and a laptop: equal cards, much text, a low bar that hides nothing."""
    from selenium.webdriver.common.by import By

    def box(selector: str) -> dict:
        return driver.execute_script(BOX, driver.find_element(By.CSS_SELECTOR, selector))

    assert low_contrast(driver) == []
    assert_fits(driver, 390)
    assert box("#left .card > div")["width"] >= 340
    wait_for(lambda: box(".votes")["height"] <= 75)  # laid out anew for the new width
    driver.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    wait_for(lambda: box(".notice")["bottom"] <= box(".votes")["top"])
    assert_fits(driver, 1280)
    assert box("#left .card")["height"] == box("#right .card")["height"]
    driver.execute_script("window.scrollTo(0, 0)")


def test_several_raters_vote_at_once_in_orders_of_their_own(tmp_path):
    pairs = [Pair(Task(f"Task {i}", ""), (f"a {i}", f"b {i}")) for i in range(30)]
    path = tmp_path / "votes.jsonl"
    with AppendOnlyFile(path, {"kind": "human"}) as file:
        evaluation = BlindEvaluation(pairs, file, seed=0)

        def rate(rater):
            while (view := evaluation.next_view(rater)) is not None:
                position, _, responses = view
                verdict = "first" if responses[0].startswith("a") else "second"
                assert evaluation.vote(rater, position, verdict)
                assert not evaluation.vote(rater, position, "tie")  # a double click

        threads = [threading.Thread(target=rate, args=(f"rater {i}",)) for i in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        table = human_table(("a", "b"), file.rows)
        orders = {rater: [pair.task.instruction for pair, _ in evaluation.order(rater)] for rater in ("x", "y")}
        assert orders["x"] != orders["y"]
        sides = [first for _, first in evaluation.order("x")]
        assert 5 < sides.count(1) < 25
    rows = votes_in(path)
    assert len(rows) == 150 == len({(row["rater"], row["instruction"]) for row in rows})
    assert "wins               150  (100.0%)" in table
    assert "agreement          300 of 300 pairs of votes" in table
    with AppendOnlyFile(path, {"kind": "human"}) as file:
        again = BlindEvaluation(pairs, file, seed=0)
        assert [pair.task.instruction for pair, _ in again.order("x")] == orders["x"]
        other = BlindEvaluation(pairs, file, seed=1)
        assert [pair.task.instruction for pair, _ in other.order("x")] != orders["x"]
        assert again.next_view("rater 3") is None


def test_a_port_in_use_is_said_in_one_line_before_a_model_is_loaded(predictions, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run_script(*human_flags(predictions, tmp_path / "votes.jsonl"), "--port", port)
        assert_fails_in_one_line(result, f"cannot serve at 127.0.0.1, port {port}", "Address already in use")
        result = run_script("demo.py", "web", "--model_name_or_path", "tests", "--port", port)
        assert_fails_in_one_line(result, f"port {port}", "Name another --port")


def response_in(driver, number: int = 1) -> str:
    """The response as it was written; it is there beneath the rendered one, too."""
    from selenium.webdriver.common.by import By

    texts = driver.find_elements(By.CSS_SELECTOR, f"#response-{number} .text")
    return texts[-1].get_attribute("textContent") if texts else ""


def test_a_visitor_of_the_demo_gets_stops_and_repeats_a_response(slow_llama, tmp_path):
    from selenium.webdriver.common.by import By

    flags = ("demo.py", "web", "--model_name_or_path", slow_llama, *UNENDING)
    with served(*flags, OMP_NUM_THREADS="1") as server, browser(tmp_path / "profile") as driver:
        driver.get(f"http://127.0.0.1:{server.port}")
        element(driver, "#run").click()
        wait_for(lambda: "Please write an instruction first." in text_of(driver))
        assert "commercial use is not allowed" in text_of(driver)
        assert f"Model: {slow_llama}, asked with the Alpaca prompt" in text_of(driver)
        assert "Shift+Enter" in text_of(driver)
        assert low_contrast(driver) == []
        for width in (390, 1280):
            assert_fits(driver, width)
        example = next(e for e in driver.find_elements(By.CSS_SELECTOR, "td") if "Turn the sentence" in e.text)
        driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", example)
        example.click()
        wait_for(lambda: "Lisbon" in element(driver, "#input textarea").get_attribute("value"))
        element(driver, "#run").click()
        wait_for(lambda: len(response_in(driver)) > 20)
        assert not element(driver, "#run").is_enabled()
        element(driver, "#stop").click()
        wait_for(lambda: element(driver, "#run").is_enabled())
        time.sleep(0.5)
        stopped_at = response_in(driver)
        time.sleep(0.5)
        assert response_in(driver) == stopped_at
        driver.execute_script("document.querySelector('#instruction textarea').value = 'Something else.'")
        element(driver, "#again").click()  # the place is free again, and the last instruction is asked once more
        wait_for(lambda: response_in(driver) not in ("", stopped_at))
        assert "Each instruction is answered by itself" in text_of(driver)
        asked = element(driver, "#earlier summary")  # what was stopped is kept as far as it had come
        assert "Turn the sentence into a question." in asked.text
        driver.execute_script("arguments[0].parentElement.open = true", asked)
        kept = [e.get_attribute("textContent") for e in driver.find_elements(By.CSS_SELECTOR, "#earlier .text")]
        assert kept[0] == "Turn the sentence into a question.\n\nThe train to Lisbon leaves at nine."
        assert kept[-1].strip().startswith(stopped_at.strip())  # a last token may have come that was not drawn
        assert len(kept[-1].strip()) <= len(stopped_at.strip()) + 5
        element(driver, "#stop").click()
        assert requested_elsewhere(driver) == []
        driver.refresh()  # another visit
        wait_for(lambda: "Shift+Enter" in text_of(driver))
        assert "Earlier in this visit" not in text_of(driver)
    assert "Traceback" not in server.complained


def test_two_models_answer_side_by_side_and_what_they_write_is_shown_and_never_run(tiny_llama, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    def top(number: int) -> float:
        return driver.execute_script(BOX, driver.find_element(By.CSS_SELECTOR, f"#response-{number}"))["top"]

    flags = ("--model_name", "m", "--other_model_name_or_path", tiny_llama, "--max_new_tokens", "8")
    with (
        OpenAIServer(lambda prompt: f"{prompt}: {HOSTILE}" if prompt == "Say hi." else MARKDOWN) as model,
        served("demo.py", "web", *flags, **model.environment) as server,
        browser(tmp_path / "profile") as driver,
    ):
        driver.get(f"http://127.0.0.1:{server.port}")
        box = element(driver, "#instruction textarea")
        for instruction in ("Say hi.", "List the steps."):
            box.send_keys(Keys.CONTROL + "a")
            box.send_keys(instruction + Keys.SHIFT + Keys.ENTER)
            expected = f"Say hi.: {HOSTILE}" if instruction == "Say hi." else MARKDOWN
            wait_for(lambda expected=expected: response_in(driver) == expected)
            wait_for(lambda: element(driver, "#run").is_enabled())
            assert "Response of model 2" in text_of(driver)
        assert_only_shown(driver, "#response-1")
        assert top(1) == top(2)
        assert low_contrast(driver) == []
        assert_fits(driver, 390)
        assert top(1) < top(2)
        assert f"Model 2: {tiny_llama}, asked with the Alpaca prompt" in text_of(driver)
        assert driver.title == "Alpaca"
        assert requested_elsewhere(driver) == []
        assert model.requests[-1]["body"]["messages"] == [{"role": "user", "content": "List the steps."}]  # no memory
        assert model.requests[-1]["body"]["temperature"] == 0.7


def visit(address: str, instruction: str, num_messages: int | None = None, **more) -> list[dict]:
    """What Gradio's server sends to a page that asks for a response: its messages, in order, or the first of them."""
    with urllib.request.urlopen(f"{address}/config") as reply:
        functions = json.load(reply)["dependencies"]
    index = next(function["id"] for function in functions if len(function["inputs"]) == 6)
    session = f"session {instruction}"
    body = {"data": [instruction, "", 0.7, 0.9, 64, None], "fn_index": index, "session_hash": session, **more}
    request = urllib.request.Request(f"{address}/gradio_api/queue/join", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    urllib.request.urlopen(request).close()
    query = urllib.parse.urlencode({"session_hash": session})
    for _ in range(3):  # as a browser does where a busy server drops the connection
        with contextlib.suppress(ConnectionResetError):
            with urllib.request.urlopen(f"{address}/gradio_api/queue/data?{query}", timeout=60) as stream:
                messages = (json.loads(line[5:]) for line in stream if line.startswith(b"data:"))
                return list(itertools.islice(messages, num_messages))
    raise ConnectionResetError


def status_of(address: str, path: str, data: bytes | None = None, **headers: str) -> int:
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def test_ten_impatient_visitors_are_answered_a_few_at_a_time():
    with (
        OpenAIServer(lambda prompt: f"re {prompt}", latency_sec=0.3) as model,
        served("demo.py", "web", "--model_name", "m", "--max_concurrent_generations", "3", **model.environment) as page,
        ThreadPoolExecutor(10) as visitors,
    ):
        address = f"http://127.0.0.1:{page.port}"
        assert status_of(address, "/", Host="evil.example") == 403
        for messages in visitors.map(lambda i: visit(address, f"visitor {i}"), range(10)):
            completed = next(m for m in messages if m["msg"] == "process_completed")
            assert completed["success"]
        assert sorted(r["body"]["messages"][0]["content"] for r in model.requests) == [
            f"visitor {i}" for i in range(10)
        ]
        assert model.most_under_way == 3
        # What is longer than the page lets through is refused by the server too.
        refused = next(m for m in visit(address, "x" * 4001) if m["msg"] == "process_completed")
        assert not refused["success"]
        assert len(model.requests) == 10


def test_the_response_to_a_visitor_who_has_left_is_broken_off(tmp_path):
    """The model's server would write for a minute; it is let go as soon as the page's visitor is."""
    let_go = threading.Event()

    def write_for_a_minute(connection) -> None:
        is_list = connection.recv(1 << 16).startswith(b"GET")
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        with connection, contextlib.suppress(OSError):
            for _ in range(0 if is_list else 600):
                connection.sendall(b'data: {"choices": [{"index": 0, "delta": {"content": "word "}}]}\n\n')
                time.sleep(0.1)
            return
        let_go.set()

    def accept(listener) -> None:
        while True:
            threading.Thread(target=write_for_a_minute, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        with served("demo.py", "web", "--model_name", "m", OPENAI_BASE_URL=url) as page:
            visit(f"http://127.0.0.1:{page.port}", "Say hi.", num_messages=10)
            assert let_go.wait(20)


def test_what_the_page_does_not_use_is_closed_and_other_sites_are_refused():
    with (
        OpenAIServer(lambda prompt: f"re {prompt}", latency_sec=0.2) as model,
        served("demo.py", "web", "--model_name", "m", "--password", "open sesame", **model.environment) as page,
    ):
        address = f"http://127.0.0.1:{page.port}"
        for path in ("run/answer", "api/answer", "call/answer", "upload", "proxy=http://127.0.0.1", "info", "run/0"):
            assert status_of(address, f"/gradio_api/{path}", b"{}") == 404, path
        assert status_of(address, "/monitoring") == 404
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", page.port, timeout=30)) as connection:
            # Only announced: the answer comes before the body, and whoever is still writing it would not see it.
            connection.putrequest("POST", "/gradio_api/queue/join")
            connection.putheader("Content-Length", str(2 << 20))
            connection.endheaders()
            assert connection.getresponse().status == 413
        assert status_of(address, "/gradio_api/queue/join", b"{}", Origin="http://evil.example") == 403
        assert status_of(address, "/", Host="proxy.example") == 200  # the form that asks for the password
        assert status_of(address, "/gradio_api/queue/join", b"{}", Origin="null") == 403
        assert status_of(address, "/gradio_api/queue/join", b"{}", Origin=address) == 401  # nobody has logged in
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert status_of(address, "/login", b"username=anna&password=wrong", **form) == 400
        assert status_of(address, "/login", b"username=anna&password=open+sesame", **form) == 200
        assert model.requests == []
    assert "Traceback" not in page.complained
