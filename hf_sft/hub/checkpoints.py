"""`hub.every: checkpoint`: the weights of each checkpoint on a branch of their own, uploaded beside the training."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState

from hf_sft.console import say
from hf_sft.errors import HfSftError
from hf_sft.hub.connection import ask, hub_client
from hf_sft.hub.contents import as_given, without_traces
from hf_sft.hub.preflight import BRANCH
from hf_sft.record import RunDirectory

# Of a checkpoint: what from_pretrained reads. Not the optimizer's state, random states, pickled arguments.
WANTED = ("config.json", "model*.safetensors", "model.safetensors.index.json", "adapter_*")
PATIENCE = 60.0  # seconds that an upload is waited for when training ends


class CheckpointPush(TrainerCallback):
    """Uploads one checkpoint at a time, in a thread; one that comes while another is under way is left out.

    A failure is said and forgotten: the next checkpoint tries again, and training never waits or ends for it.
    """

    def __init__(self, repo_id: str, directory: RunDirectory, save_processor: Callable[[Path], None]):
        self.repo_id = repo_id
        self.directory = directory
        self.save_processor = save_processor
        self.thread: threading.Thread | None = None

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not args.should_save:
            return
        step = state.global_step
        if self.thread is not None and self.thread.is_alive():
            say(f"checkpoint {step} is not pushed: the one before is still on its way")
            return
        staged = self._stage(self.directory.checkpoints / f"checkpoint-{step}")
        self.thread = threading.Thread(target=self._push, args=(staged, step), name="checkpoint push", daemon=True)
        self.thread.start()

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.wait()

    def wait(self) -> None:
        """Until the upload that is under way has ended, or a minute is over."""
        if self.thread is not None:
            self.thread.join(PATIENCE)

    def _stage(self, checkpoint: Path) -> Path:
        """A folder with links to the checkpoint's files, which may be removed meanwhile; copies where links fail."""
        staged = Path(tempfile.mkdtemp(prefix=".push-", dir=self.directory.checkpoints))
        for file in sorted(file for pattern in WANTED for file in checkpoint.glob(pattern)):
            try:
                os.link(file, staged / file.name)
            except OSError:
                shutil.copyfile(file, staged / file.name)
        self.save_processor(staged)
        return staged

    def _push(self, staged: Path, step: int) -> None:
        try:
            with hub_client() as api:
                ask(lambda: self._commit(api, staged, step), f"checkpoint {step}", f"to push it to {self.repo_id}")
        except HfSftError as error:
            say(f"checkpoint {step} was not pushed ({error.findings[0].found}); training goes on")
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _commit(self, api: HfApi, staged: Path, step: int) -> None:
        files = {path.relative_to(staged).as_posix(): path for path in sorted(staged.rglob("*")) if path.is_file()}
        contents = {name: without_traces(path, self.directory) for name, path in files.items()}
        operations: list[Any] = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=as_given(content))
            for name, content in contents.items()
        ]
        there = set(api.list_repo_files(self.repo_id, revision=BRANCH))
        old = {name for name in there if name.endswith(".safetensors") or name.endswith(".safetensors.index.json")}
        operations += [CommitOperationDelete(path_in_repo=name, is_folder=False) for name in sorted(old - set(files))]
        api.create_commit(self.repo_id, operations, commit_message=f"Checkpoint {step}", revision=BRANCH)
