"""Checkpoints are whole or not taken, and what an earlier run left is replaced where it is the model's own."""

import pytest
import transformers

import train
from alpaca.training import checkpoints
from tests.helpers.training import parse
from utils import UserError, jdump

pytestmark = pytest.mark.usefixtures("environment_as_it_is")


@pytest.fixture
def checkpoint(tmp_path):
    unfinished = tmp_path / "unfinished" / "checkpoint-2"
    (unfinished / "global_step2").mkdir(parents=True)
    (unfinished / "model.safetensors").write_bytes(b"weights")
    (unfinished / "global_step2" / "optim.pt").write_bytes(b"moments")
    checkpoints.complete(unfinished, tmp_path / "checkpoint-2")
    return tmp_path / "checkpoint-2"


def test_a_complete_checkpoint_has_its_name_and_nothing_is_left_over(checkpoint):
    assert checkpoints.what_is_missing(checkpoint) is None
    assert list((checkpoint.parent / "unfinished").iterdir()) == []


@pytest.mark.parametrize("name", ["model.safetensors", "global_step2/optim.pt", checkpoints.FILE_LIST])
@pytest.mark.parametrize("damage", ["cut off", "removed"])
def test_a_checkpoint_with_a_file_cut_off_or_removed_is_not_whole(checkpoint, name, damage):
    path = checkpoint / name
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert checkpoints.what_is_missing(checkpoint)
    messages = []
    assert checkpoints.checkpoint_to_resume("True", str(checkpoint.parent), messages.append) is None
    assert "checkpoint-2 is not whole" in messages[0]
    with pytest.raises(UserError, match="not a whole checkpoint"):
        checkpoints.checkpoint_to_resume(str(checkpoint), str(checkpoint.parent))


def test_the_newest_whole_checkpoint_is_taken(checkpoint):
    for step in (10, 9):
        (checkpoint.parent / f"checkpoint-{step}").mkdir()
    assert checkpoints.checkpoint_to_resume("True", str(checkpoint.parent), lambda text: None) == str(checkpoint)


def test_without_the_flag_an_earlier_run_is_pointed_out(checkpoint):
    messages = []
    assert checkpoints.checkpoint_to_resume(None, str(checkpoint.parent), messages.append) is None
    assert "checkpoint-2 of an earlier run" in messages[0]


def test_a_step_that_is_trained_again_replaces_its_checkpoint(checkpoint):
    again = checkpoint.parent / "unfinished" / "checkpoint-2"
    again.mkdir()
    (again / "model.safetensors").write_bytes(b"other")
    checkpoints.complete(again, checkpoint)
    assert (checkpoint / "model.safetensors").read_bytes() == b"other"
    assert not (checkpoint / "global_step2").exists()
    assert checkpoints.what_is_missing(checkpoint) is None


def test_a_start_empties_what_a_killed_run_left_unfinished(tiny_opt, tmp_path):
    jdump([{"instruction": f"Say {i}.", "output": "1"} for i in range(4)], tmp_path / "data.json")
    out = tmp_path / "out"
    for name in ("checkpoint-1", "checkpoint-1.replaced", "model"):
        (out / "unfinished" / name).mkdir(parents=True)
        (out / "unfinished" / name / "left_over.bin").write_bytes(b"x")
    (out / "checkpoint-1").mkdir()
    tokenizer = train.load_tokenizer(str(tiny_opt), None, 128)[0]
    data = train.make_supervised_data_module(tokenizer, train.DataArguments(data_path=str(tmp_path / "data.json")))
    args = parse("--use_cpu", "True", "--max_steps", "1", "--save_steps", "1", "--output_dir", str(out))
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_opt)
    trainer = train.AlpacaTrainer(model, args, processing_class=tokenizer, **data)
    trainer.train()
    trainer.save_final_model()
    assert checkpoints.what_is_missing(out / "checkpoint-1") is None
    assert list(out.rglob("left_over.bin")) == []
    assert (out / "model.safetensors").is_file()


def test_a_new_model_takes_the_place_of_an_earlier_ones_files_and_of_no_others(tmp_path):
    earlier = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    others = ["reward_model.safetensors", "model_of_mine.safetensors", "adapter_model.safetensors"]
    for name in [*earlier, *others, "config.json"]:
        (tmp_path / name).write_text("old")
    unfinished = tmp_path / "unfinished" / "model"
    unfinished.mkdir(parents=True)
    for name in ("model.safetensors", "config.json"):
        (unfinished / name).write_text("new")
    checkpoints.move_model(unfinished, tmp_path)
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {"model.safetensors": "new", "config.json": "new", **dict.fromkeys(others, "old")}


def test_a_full_model_is_not_written_beside_an_adapter_that_would_be_loaded_with_it(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    checkpoints.check_output_dir(str(tmp_path), train.LoraArguments(lora_rank=4))
    with pytest.raises(UserError, match="holds an adapter"):
        checkpoints.check_output_dir(str(tmp_path), train.LoraArguments())
