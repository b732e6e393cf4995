"""Held-out losses, the best checkpoint, several data files, the model card and its upload."""

import copy
import http.server
import json
import re
import threading

import pytest
import torch
import transformers

import train
from alpaca.training import arguments, card, evaluation, packed_steps, response_loss
from alpaca.training.checkpoints import check_same_data
from tests.helpers import packed_train  # noqa: F401 - registers the attention that stands in for the GPU's
from tests.helpers.commands import ROOT
from tests.helpers.training import FSDP, ranks
from tests.helpers.training import run as run_command
from utils import UserError, jdump, jload


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.json"
    jdump(jload(ROOT / "alpaca_data.json")[:60], path)
    return path


@pytest.fixture(scope="module")
def tokenizer(tiny_llama):
    return train.load_tokenizer(str(tiny_llama), None, 256)[0]


def flags_of(model, data_path, output_dir, **flags):
    flags = {
        "model_name_or_path": model, "data_path": data_path, "output_dir": output_dir, "logging_steps": 1,
        "model_max_length": 256, "learning_rate": 1e-3, "use_cpu": True, **flags,
    }  # fmt: skip
    return [str(text) for name, value in flags.items() for text in (f"--{name}", value)]


def train_here(monkeypatch, *arguments, **flags):
    """Run train.py in this process and return the log."""
    arguments = flags_of(*arguments, **flags)
    monkeypatch.setattr("sys.argv", ["train.py", *arguments])
    train.train()
    return jload(arguments[arguments.index("--output_dir") + 1] + "/trainer_state.json")["log_history"]


def held_out(log):
    return [(entry["step"], entry["eval_loss"]) for entry in log if "eval_loss" in entry]


def plain_loss(model, dataset):
    """The mean over all labels, one example at a time."""
    losses = []
    for example in dataset:
        with torch.no_grad():
            logits = model(example["input_ids"][None]).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, example["labels"][1:], reduction="none").double())
    return (torch.cat(losses).sum() / int(dataset.num_labels.sum())).item()


@pytest.mark.parametrize("is_packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_the_held_out_loss_is_that_of_a_plain_loop_for_any_micro_batch(
    model_type, is_packed, tokenizer, data_path, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        packed_steps, "attention_for_rows", lambda device, dtype: "block_diagonal" if is_packed else None
    )
    torch.manual_seed(0)
    config = {
        "llama": transformers.LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
        ),
        "gpt2": transformers.GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4),
    }[model_type]
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    dataset = train.SupervisedDataset(str(data_path), tokenizer)
    expected = plain_loss(model, dataset)
    collator = train.DataCollatorForSupervisedDataset(tokenizer)
    response_loss.compute_loss_on_response_only(model)
    for micro_batch in (1, 4, 16):
        args = train.TrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, model_max_length=256, per_device_eval_batch_size=micro_batch
        )
        trainer = train.AlpacaTrainer(
            copy.deepcopy(model), args, eval_dataset=dataset, data_collator=collator, processing_class=tokenizer
        )
        assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-6)


def test_held_out_losses_come_at_the_start_and_the_end_and_leave_training_as_it_is(
    tiny_opt, data_path, tmp_path, monkeypatch, capsys
):
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps(example) for example in jload(ROOT / "alpaca_data.json")[60:80]))
    without = train_here(monkeypatch, tiny_opt, data_path, tmp_path / "without", max_steps=3)
    capsys.readouterr()
    log = train_here(monkeypatch, tiny_opt, data_path, tmp_path / "with", max_steps=3, eval_data_path=other)
    closing_lines = capsys.readouterr().err.splitlines()[-5:]
    assert [step for step, _ in held_out(log)] == [0, 3]
    assert [e["loss"] for e in log if "loss" in e] == [e["loss"] for e in without if "loss" in e]  # dropout and all
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "with").eval()
    tokenizer = train.load_tokenizer(str(tiny_opt), None, 256)[0]
    dataset = train.SupervisedDataset(str(other), tokenizer)
    assert held_out(log)[-1][1] == pytest.approx(plain_loss(model, dataset), abs=1e-6)
    readme = (tmp_path / "with" / "README.md").read_text(encoding="utf-8")
    assert f"| held out | {held_out(log)[0][1]:.4f} | {held_out(log)[1][1]:.4f} |" in readme
    assert (tmp_path / "with" / "loss.png").read_bytes().startswith(b"\x89PNG")
    first, last = (loss for _, loss in held_out(log))
    assert re.fullmatch(r"3 steps, .* epochs in 0 min \d\d s, [\d,]+ tokens per second", closing_lines[0])
    assert closing_lines[1].startswith(f"loss {log[1]['loss']:.4f} (step 1)  to  ")
    assert closing_lines[2] == f"held-out loss {first:.4f} (step 0)  to  {last:.4f} (step 3)"
    assert closing_lines[3] == f"model saved to {tmp_path / 'with'}, its card and curve to README.md and loss.png there"
    assert closing_lines[4] == f"talk to it: python demo.py chat --model_name_or_path {tmp_path / 'with'}"
    modes = {path.stat().st_mode for path in (tmp_path / "with").rglob("*") if path.is_file()}
    assert len(modes) == 1, "weights are as readable as all else"


def test_the_best_model_is_the_one_saved_and_its_checkpoint_stays_and_other_data_cannot_resume(
    tiny_llama, data_path, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "save_total_limit": 1, "max_steps": 4}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "lr_scheduler_type": "constant"}
    log = train_here(monkeypatch, tiny_llama, data_path, out, eval_size=12, **steps, **best, **{"learning_rate": 0.3})
    losses = dict(held_out(log))
    best_step = min(range(1, 5), key=losses.get)
    assert best_step < 4, "the learning rate is too large on purpose"
    state = jload(out / "trainer_state.json")
    assert state["best_model_checkpoint"] == str(out / f"checkpoint-{best_step}")
    assert (out / f"checkpoint-{best_step}" / "model.safetensors").read_bytes() == (
        out / "model.safetensors"
    ).read_bytes()
    checkpoint = str(out / f"checkpoint-{best_step}")
    tokenizer = train.load_tokenizer(str(tiny_llama), None, 256)[0]
    dataset = train.SupervisedDataset(str(data_path), tokenizer)
    check_same_data(checkpoint, dataset.select(list(range(48))))
    jdump(jload(data_path)[1:], tmp_path / "other.json")
    for other in (dataset, train.SupervisedDataset(str(tmp_path / "other.json"), tokenizer).select(list(range(48)))):
        with pytest.raises(UserError, match="trained on other data"):
            check_same_data(checkpoint, other)


def test_two_ranks_under_fsdp_take_the_held_out_loss_of_one_process(tiny_llama, data_path, tmp_path, monkeypatch):
    flags = {"eval_size": 0.25, "max_steps": 2, "save_steps": 1, "learning_rate": 1e-4}
    one = train_here(monkeypatch, tiny_llama, data_path, tmp_path / "one", per_device_train_batch_size=8, **flags)
    arguments = flags_of(tiny_llama, data_path, tmp_path / "two", per_device_train_batch_size=4, **flags)
    run_command(ranks(*arguments, *FSDP, "LlamaDecoderLayer"))
    two = jload(tmp_path / "two" / "trainer_state.json")["log_history"]
    assert [step for step, _ in held_out(two)] == [0, 2]
    assert [loss for _, loss in held_out(two)] == pytest.approx([loss for _, loss in held_out(one)], abs=1e-6)


def test_held_out_examples_are_drawn_by_seed_and_not_trained_on():
    train_indices, eval_indices = evaluation.split(100, 20, seed=1)
    assert sorted(train_indices + eval_indices) == list(range(100))
    assert evaluation.split(100, 0.2, seed=1)[1] == eval_indices
    assert evaluation.split(100, 20, seed=2)[1] != eval_indices


# ---- Several files ----


def test_several_files_have_a_line_each_and_repetitions_are_counted(data_path, tokenizer, tmp_path):
    examples = jload(data_path)
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps(e) for e in [*examples[:2], *examples[:1]]))
    dataset = train.SupervisedDataset([str(data_path), str(tmp_path / "b.jsonl")], tokenizer)
    assert len(dataset) == 63
    lines = dataset.summary().splitlines()
    assert lines[0] == f"{data_path}: 60 examples"
    assert lines[1] == f"{tmp_path}/b.jsonl: 3 examples"
    assert lines[2].startswith("2 examples stand in more than one")
    assert lines[3].startswith("63 examples of")


def test_max_examples_takes_the_first_ones_and_what_is_held_out_is_among_them(data_path, tokenizer):
    whole = train.SupervisedDataset(str(data_path), tokenizer)
    data_args = arguments.DataArguments(data_path=[str(data_path)], max_examples=10, eval_size=3)
    module = train.make_supervised_data_module(tokenizer, data_args)
    assert [len(module["train_dataset"]), len(module["eval_dataset"])] == [7, 3]
    taken = [tuple(ids) for part in ("train_dataset", "eval_dataset") for ids in module[part].input_ids]
    assert sorted(taken) == sorted(tuple(ids) for ids in whole.input_ids[:10])


# ---- Mistakes ----


def test_mistakes_about_held_out_data_are_one_line_each(tiny_llama, data_path, tmp_path, monkeypatch):
    cases = [
        ({"eval_strategy": "steps"}, "--eval_strategy steps needs .*--eval_data_path.*--eval_size"),
        ({"eval_size": 60}, "--eval_size 60: leaves none of the 60 examples"),
        ({"eval_size": 1.5}, "--eval_size 1.5: takes a number of examples, or a share"),
        ({"eval_size": -1}, "--eval_size -1.0"),
        ({"eval_size": "nan"}, "--eval_size nan"),
        ({"eval_size": 5, "eval_data_path": data_path}, "exclude each other"),
        ({"eval_data_path": data_path}, "the same data as --data_path"),
    ]
    for flags, message in cases:
        with pytest.raises(UserError, match=message):
            train_here(monkeypatch, tiny_llama, data_path, tmp_path / "out", **flags)


def test_a_card_takes_no_other_files_place_and_keeps_no_token(tiny_llama, data_path, tmp_path, monkeypatch):
    for name in ("README.md", "loss.png"):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(UserError, match=f"{name}: not written by train.py"):
            train_here(monkeypatch, tiny_llama, data_path, folder)
        assert (folder / name).read_text() == "mine"
    tokens = ["--hub_token", "hf_secret", "--hub_token=hf_secret", "--hub-token", "hf_secret"]
    monkeypatch.setattr("sys.argv", ["train.py", *tokens, "--bf16", "True"])
    assert card.command_line() == "train.py --hub_token ... --hub_token=... --hub-token ... --bf16 True"


# ---- The Hub ----


class StandInForTheHub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub's API as an upload of small files needs; what is committed lies in server.commits."""

    def answer(self, body: dict) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.answer({"id": "me/out", "sha": "0" * 40, "siblings": []})

    def do_POST(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = f"http://{self.headers['Host']}/me/out"
        if self.path.endswith("/repos/create"):
            return self.answer({"url": url, "name": "me/out", "id": "me/out"})
        if "/preupload/" in self.path:
            files = json.loads(body)["files"]
            how = {"uploadMode": "regular", "shouldIgnore": False}
            return self.answer({"files": [{"path": f["path"], **how} for f in files]})
        if "/commit/" in self.path:
            rows = [json.loads(line) for line in body.decode().splitlines()]
            self.server.commits.append(sorted(row["value"]["path"] for row in rows if row["key"] == "file"))
            return self.answer({"commitUrl": f"{url}/commit/1", "commitOid": "1" * 40, "pullRequestUrl": None})
        return self.answer({})

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StandInForTheHub)
    server.commits = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_the_finished_folder_is_uploaded_once_and_a_hub_out_of_reach_is_one_line(
    hub, tiny_llama, data_path, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    flags = {"max_steps": 2, "save_steps": 1, "push_to_hub": True, "hub_token": "hf_secret"}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"--push_to_hub out: the Hub did not take it .*hf auth login"):
        train_here(monkeypatch, tiny_llama, data_path, out, **flags)
    assert list(out.iterdir()) == [], "refused before the training"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
    train_here(monkeypatch, tiny_llama, data_path, out, **flags)
    [files] = hub.commits
    assert files == sorted(p.name for p in out.iterdir() if not p.name.startswith("checkpoint-"))
    assert {"README.md", "loss.png", "model.safetensors", "trainer_state.json"} <= set(files)
    assert "hf_secret" not in (out / "README.md").read_text()


# ---- Resuming elsewhere, tracking ----


def test_a_checkpoint_of_a_full_run_goes_on_elsewhere_with_other_logging_flags(
    tiny_llama, data_path, tmp_path, monkeypatch
):
    same = {"eval_size": 12, "max_steps": 4, "save_steps": 2}
    whole = train_here(monkeypatch, tiny_llama, data_path, tmp_path / "whole", **same)
    for step in (2, 4):
        out = tmp_path / f"from {step}"
        flags = {"resume_from_checkpoint": tmp_path / "whole" / f"checkpoint-{step}", "logging_strategy": "epoch"}
        log = train_here(monkeypatch, tiny_llama, data_path, out, **same, **flags)
        assert held_out(log) == held_out(whole)
        assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_tensorboard_gets_the_losses_where_asked_and_nobody_does_unless_asked(
    tiny_llama, data_path, tmp_path, monkeypatch
):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    run = {"max_steps": 2, "eval_size": 12}
    log = train_here(monkeypatch, tiny_llama, data_path, tmp_path / "out", **run, report_to="tensorboard")
    [folder] = (tmp_path / "out" / "runs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    for tag, name in (("train/loss", "loss"), ("eval/loss", "eval_loss")):
        logged = {entry["step"]: entry[name] for entry in log if name in entry}
        assert {event.step: event.value for event in events.Scalars(tag)} == pytest.approx(logged)
    assert train.TrainingArguments(output_dir=str(tmp_path)).report_to == []
    train_here(monkeypatch, tiny_llama, data_path, tmp_path / "quiet", **run)
    assert not (tmp_path / "quiet" / "runs").exists()
