"""Checkpoints that are whole or not there: written under another name, listed file by file, then renamed.

train.py uses this so that a run killed at any instant goes on from the newest whole checkpoint. In the folder
<output_dir>/unfinished lies what is being written; a new run empties it. Ranks share one file system.
"""

# Copyright 2026 The contributors. Licensed under the Apache License, Version 2.0 (see LICENSE).

import contextlib
import errno
import os
import re
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from transformers.trainer_utils import rotate_checkpoints

from alpaca.training.arguments import LoraArguments
from utils import UserError, jdump, jload, lock_or_refuse, os_errors_in_one_line, sync_directory

UNFINISHED = "unfinished"
FILE_LIST = "checkpoint_files.json"  # written last: name and size in bytes of every other file
DATA = "data_sha256.json"  # what a checkpoint was trained on
MAX_SHARD_SIZE = "5GB"
ADVICE = "Make room and go on from the newest checkpoint with --resume_from_checkpoint True."
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")  # a full model's files


def check_output_dir(output_dir: str, lora_args: LoraArguments) -> None:
    """Make the output folder, and see that a file can be written there, before hours of work depend on it."""
    with os_errors_in_one_line(f"--output_dir {output_dir}", "It cannot be written to."):
        os.makedirs(output_dir, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    if not lora_args.lora_rank and os.path.exists(os.path.join(output_dir, "adapter_config.json")):
        raise UserError(
            f"--output_dir {output_dir}: holds an adapter, which would be loaded together with the model. Name another "
            "folder, or remove adapter_config.json."
        )


@contextlib.contextmanager
def locked(output_dir: str) -> Iterator[None]:
    """Keep the folder for this run. Raises UserError where another run has it."""
    if os.environ.get("RANK", "0") != "0":  # the ranks of one run share it
        yield
        return
    with os_errors_in_one_line(f"--output_dir {output_dir}"):
        descriptor = os.open(output_dir, os.O_RDONLY)
    try:
        lock_or_refuse(descriptor, f"--output_dir {output_dir}")
        yield
    finally:
        os.close(descriptor)


class CheckpointingTrainer(transformers.Trainer):
    """A Trainer whose checkpoints and final model get their names when they are complete."""

    def train(self, *args, **kwargs):
        unfinished = Path(self.args.output_dir) / UNFINISHED
        if self.args.should_save and unfinished.exists():
            # What a killed run left there would get into this run's checkpoints, or stand in their way.
            with os_errors_in_one_line(unfinished):
                shutil.rmtree(unfinished)
        self.accelerator.wait_for_everyone()
        return super().train(*args, **kwargs)

    def _maybe_log_save_evaluate(self, tr_loss, *args, **keywords):
        # After each step, on all ranks; tr_loss is the sum since the last log entry.
        if on_any_rank(not torch.isfinite(tr_loss).all(), self.args.device):
            raise UserError(
                f"the loss of step {self.state.global_step} is not finite, and nothing was saved after it. "
                "Try a lower --learning_rate, or look at the data; checkpoints of earlier steps are whole."
            )
        super()._maybe_log_save_evaluate(tr_loss, *args, **keywords)

    def _save_checkpoint(self, model, trial):
        output_dir = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        self.args.output_dir = str(output_dir / UNFINISHED)
        try:
            with write_errors_in_one_line(output_dir, self.args.should_save):
                super()._save_checkpoint(model, trial)
        finally:
            self.args.output_dir = str(output_dir)
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(output_dir / name)
        self.accelerator.wait_for_everyone()  # every rank has written its part
        if self.args.should_save:
            with write_errors_in_one_line(output_dir):
                self.state.save_to_json(str(output_dir / UNFINISHED / name / "trainer_state.json"))
                jdump(identity_of(self.train_dataset), output_dir / UNFINISHED / name / DATA)
                complete(output_dir / UNFINISHED / name, output_dir / name)
                rotate_checkpoints(str(output_dir), self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    def save_final_model(self) -> None:
        """Save model, tokenizer and trainer_state.json to output_dir, each file under its name once complete.

        Collective: under FSDP and DeepSpeed the weights are gathered one by one to the CPU memory of rank 0.
        """
        output_dir = Path(self.args.output_dir)
        temporary = output_dir / UNFINISHED / "model"
        with write_errors_in_one_line(output_dir, self.args.should_save):
            self.save_model(str(temporary))
            if self.args.should_save:
                self.state.save_to_json(str(temporary / "trainer_state.json"))
                move_model(temporary, output_dir)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir=None, state_dict=None):
        # The Trainer's own writes one file of up to 50 GB, and a pickle of its arguments.
        if self.args.should_save:
            model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
            for name, values in (state_dict or model.state_dict()).items():
                if not torch.isfinite(values).all():
                    raise UserError(
                        f"after step {self.state.global_step}, {name} holds values that are not finite; nothing was "
                        "saved. Try a lower --learning_rate."
                    )
            if hasattr(model, "peft_config"):
                model.save_pretrained(output_dir, state_dict=state_dict, save_embedding_layers=False)
                (Path(output_dir) / "README.md").unlink()  # peft's empty form of a model card
            else:
                model.save_pretrained(output_dir, state_dict=state_dict, max_shard_size=MAX_SHARD_SIZE)
            self.processing_class.save_pretrained(output_dir)
            open_to_others(Path(output_dir))


class SaveAndStopOnSigterm(transformers.TrainerCallback):
    """SIGTERM, which schedulers send before they kill: finish the step, save a checkpoint, stop on every rank."""

    def __init__(self):
        self.received = self.stopped = False
        self.previous_handler = None

    def _on_signal(self, signum, frame):
        self.received = True

    def on_train_begin(self, args, state, control, **kwargs):
        self.previous_handler = signal.signal(signal.SIGTERM, self._on_signal)

    def on_step_end(self, args, state, control, **kwargs):
        # The signal reaches ranks at different steps, or one rank only.
        if on_any_rank(self.received, args.device) and state.global_step < state.max_steps:
            self.stopped = control.should_save = control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        signal.signal(signal.SIGTERM, self.previous_handler)


def on_any_rank(flag: bool | torch.Tensor, device: torch.device) -> bool:
    """Whether flag is true on some rank. Collective."""
    flags = torch.as_tensor(flag, device=device).int()
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
    return bool(flags)


# What safetensors and torch.save say, in exceptions of their own, of a full disk and of a limit on file sizes.
DISK_IS_FULL = re.compile(
    r"os error (28|122|27)\b|No space left|quota exceeded|File too large|PytorchStreamWriter|inline_container"
)


@contextlib.contextmanager
def write_errors_in_one_line(output_dir: Path, may_remove: bool = True) -> Iterator[None]:
    """A write that fails: a UserError, and what was written so far is gone. Whole checkpoints stay."""
    try:
        with os_errors_in_one_line(output_dir, ADVICE):
            try:
                yield
            except (RuntimeError, SafetensorError) as error:
                if not DISK_IS_FULL.search(str(error)):
                    raise
                raise OSError(
                    errno.ENOSPC, f"a file could not be written ({' '.join(str(error).split())[:200]})"
                ) from None
    except UserError:
        if may_remove:
            shutil.rmtree(output_dir / UNFINISHED, ignore_errors=True)
        raise


def open_to_others(folder: Path) -> None:
    """Give weights, which are saved for their owner alone, the mode of the other files of their folder."""
    mode = stat.S_IMODE(next(folder.glob("*config.json")).stat().st_mode)
    for weights in folder.glob("*.safetensors"):
        weights.chmod(mode)


def complete(unfinished: Path, final: Path) -> None:
    """List the files of a checkpoint folder, flush them to disk, and give the folder its final name."""
    sizes = {str(p.relative_to(unfinished)): p.stat().st_size for p in sorted(unfinished.rglob("*")) if p.is_file()}
    for name in sizes:
        flush_to_disk(unfinished / name)
    jdump(sizes, unfinished / FILE_LIST)
    if final.exists():  # the step was trained again, after a resume from an earlier one
        os.replace(final, unfinished.with_suffix(".replaced"))
    os.replace(unfinished, final)
    sync_directory(final.parent)
    shutil.rmtree(unfinished.with_suffix(".replaced"), ignore_errors=True)


def move_model(unfinished: Path, output_dir: Path) -> None:
    """Give the files of a model, once all of them are on the disk, their place in output_dir."""
    paths = sorted(unfinished.iterdir())
    for path in paths:
        flush_to_disk(path)
    for old in output_dir.iterdir():  # an earlier model's shards must not mix with this one's
        if WEIGHTS.fullmatch(old.name) and not (unfinished / old.name).exists():
            old.unlink()
    for path in paths:
        os.replace(path, output_dir / path.name)
    sync_directory(output_dir)
    shutil.rmtree(output_dir / UNFINISHED)


def flush_to_disk(path: Path) -> None:
    with open(path, "rb") as f:
        os.fsync(f.fileno())


def what_is_missing(checkpoint: Path) -> str | None:
    """Why a folder is no whole checkpoint, in words, or None if it is one."""
    if not checkpoint.is_dir():
        return "no such folder"
    if not (checkpoint / FILE_LIST).is_file():
        return f"no {FILE_LIST}, which is written last"
    try:
        sizes = jload(checkpoint / FILE_LIST)
    except UserError as error:
        return str(error)
    for name, size in sizes.items():
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if (checkpoint / name).stat().st_size != size:
            return f"{name} has {(checkpoint / name).stat().st_size} bytes instead of {size}"
    return None


def identity_of(dataset) -> dict:
    return {"sha256": dataset.sha256, "num_examples": len(dataset)}


def check_same_data(checkpoint: str | None, dataset) -> None:
    """Raise UserError where a checkpoint was trained on other data, which its count of steps would misplace."""
    if checkpoint and (Path(checkpoint) / DATA).is_file() and jload(Path(checkpoint) / DATA) != identity_of(dataset):
        raise UserError(
            f"--resume_from_checkpoint {checkpoint}: trained on other data than {', '.join(dataset.paths)} with these "
            "flags. Name the same files in the same order, and the same --eval_size; or start anew in another "
            "--output_dir, with the model in the checkpoint as --model_name_or_path."
        )


def check_same_sharding(checkpoint: str | None, training_args) -> None:
    """Raise UserError where a checkpoint was written with FSDP or DeepSpeed, each of which has a format of its own, and
    is to be continued without, or the other way round."""
    for flag, files in (("fsdp", "pytorch_model_fsdp*"), ("deepspeed", "global_step*")) if checkpoint else ():
        is_there = any(Path(checkpoint).glob(files))
        if is_there != bool(getattr(training_args, flag)):
            raise UserError(
                f"--resume_from_checkpoint {checkpoint}: of a run with{'' if is_there else 'out'} --{flag}. "
                "Continue it so, on any number of processes."
            )


def checkpoint_to_resume(resume_from_checkpoint: str | None, output_dir: str, say=print) -> str | None:
    """The checkpoint that --resume_from_checkpoint asks for: a path as given, the newest whole one for True.

    None if it was not asked for, or if there is none yet, so that one command line serves the first start of a job
    and every restart. Raises UserError for a path that holds no whole checkpoint.
    """
    found = [p for p in Path(output_dir).glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    found.sort(key=lambda p: int(p.name.removeprefix("checkpoint-")), reverse=True)  # the latest step first
    if resume_from_checkpoint in (None, "", "False", "false"):
        if found:
            say(
                f"warning: {output_dir} holds {found[0].name} of an earlier run; "
                "--resume_from_checkpoint True would continue it."
            )
        return None
    if resume_from_checkpoint not in ("True", "true"):
        if missing := what_is_missing(Path(resume_from_checkpoint)):
            raise UserError(f"--resume_from_checkpoint {resume_from_checkpoint}: not a whole checkpoint ({missing}).")
        return resume_from_checkpoint
    for checkpoint in found:
        if (missing := what_is_missing(checkpoint)) is None:
            say(f"continuing from {checkpoint}")
            return str(checkpoint)
        say(f"warning: {checkpoint} is not whole ({missing}) and is passed over.")
    say(f"no checkpoint in {output_dir} yet: starting from the beginning.")
    return None
