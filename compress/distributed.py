"""The processes of one launch: which one this is, and how they hear of each other.

`torchrun` and `accelerate launch` start the same command several times. The first process does everything; the others come
in for the stages that train, and between those they wait for the first one's word and for the artifact on the disk that
all of them share. Words go through the launcher's key-value store, which every launch has anew, so that nothing of a launch
that was killed is ever heard. A process group exists only inside a stage.

This is the one place that reads what a launcher sets.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from compress.errors import CommandError, StageError

_POLL_SECONDS = 0.2
_LAST_WORD_SECONDS = 5.0
_MEET_SECONDS = 600.0
_FAILED = "failed"
_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Process:
    """Which process this is: `rank` of `size`, on its machine number `local`. `launched`: a launcher has started it."""

    rank: int = 0
    size: int = 1
    local: int = 0
    launched: bool = False

    @property
    def first(self) -> bool:
        """Whether it is the one that prints, writes and measures."""
        return self.rank == 0


def process(variables: Mapping[str, str] = os.environ) -> Process:
    """Return which process of its launch this is; the only one where no launcher started it.

    Raises CommandError where the variables of a launcher are there in part.
    """
    if not {"RANK", "WORLD_SIZE"} & variables.keys():
        return Process()
    if missing := [name for name in _NEEDED if name not in variables]:
        raise CommandError(
            f"a launcher has set {'RANK' if 'RANK' in variables else 'WORLD_SIZE'} and not {', '.join(missing)}; "
            "start compress with torchrun or accelerate launch, or unset them"
        )
    rank, size = int(variables["RANK"]), int(variables["WORLD_SIZE"])
    return Process(rank, size, int(variables.get("LOCAL_RANK", rank)), launched=True)


def is_first(variables: Mapping[str, str] = os.environ) -> bool:
    """Say whether this process speaks for its launch; for messages, which must come whatever else is wrong."""
    return variables.get("RANK", "0") == "0"


def sharding(variables: Mapping[str, str] = os.environ) -> Literal["", "fsdp1", "fsdp2"]:
    """Return which kind of FSDP the launcher asks accelerate for; empty for none."""
    if variables.get("ACCELERATE_USE_FSDP", "false").lower() not in ("true", "1"):
        return ""
    return "fsdp2" if variables.get("FSDP_VERSION", "1") == "2" else "fsdp1"


def refuse_sharding(device: str, variables: Mapping[str, str] = os.environ) -> None:
    """Raise CommandError for an FSDP that does not work here: version 1, and on CPUs, where accelerate takes no notice of it."""
    asked = sharding(variables)
    if asked == "fsdp1":
        raise CommandError(
            "FSDP of version 1 is not supported; use version 2: accelerate launch --use_fsdp --fsdp_version 2"
        )
    if asked and device == "cpu":
        raise CommandError(
            "FSDP needs GPUs, and there is none here; leave it out: several processes then share each batch"
        )


def windows_per_piece(batch: int, accumulate: int, processes: int) -> int:
    """Return how many windows one process takes at a time.

    Raises ValueError, in words for the user, where the batch cannot be shared evenly.
    """
    pieces = accumulate * processes
    if batch % pieces == 0:
        return batch // pieces
    below, above = batch // pieces * pieces, -(-batch // pieces) * pieces
    nearest = f"{below} or {above}" if below else f"{above}"
    shared = f"{processes} processes" + (f" with {accumulate} pieces each" if accumulate > 1 else "")
    raise ValueError(f"batch is {batch} windows over all processes, and {shared} cannot share it evenly; use {nearest}")


class Silent:
    """A listener for the processes that say nothing."""

    def say(self, message: str) -> None:
        """Take one line of news."""

    @contextmanager
    def task(self, label: str) -> Iterator[Callable[..., None]]:
        """Give a progress that says nothing."""
        yield lambda *_, **__: None


@dataclass
class Launch:
    """The processes of one launch. Made by `join`; a process that nobody launched is a launch of its own."""

    process: Process = field(default_factory=Process)
    store: Any = None

    @property
    def others(self) -> bool:
        """Whether there are other processes."""
        return self.process.size > 1

    def tell(self, topic: str, words: str) -> None:
        """Leave words for the other processes."""
        if self.others:
            self.store.set(topic, words)

    def hear(self, topic: str) -> str:
        """Wait, as long as it takes, for the words that the first process leaves.

        Raises StageError where it failed before, or is gone.
        """
        while True:
            for heard in (topic, f"{_FAILED}/0"):
                if (words := self._read(heard)) is not None:
                    if heard != topic:
                        raise FirstProcessError(words)
                    return words
            time.sleep(_POLL_SECONDS)

    def _read(self, topic: str) -> str | None:
        try:
            return self.store.get(topic).decode() if self.store.check([topic]) else None
        except RuntimeError as error:  # torch's errors of a lost connection
            raise FirstProcessError(f"the first process is gone ({str(error).partition(chr(10))[0]})") from error

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Let the others know that this process fails; where it was another that failed, say what that one said.

        Without this, what is seen of an error in one process is that the connection to it broke in the others. The first
        process speaks for all: raises FirstProcessError in another one where it does.
        """
        try:
            yield
        except FirstProcessError:
            raise
        except BaseException as error:
            if not self.others:
                raise
            broken = _is_broken_connection(error)
            self._tell_failure("" if broken else str(error) or type(error).__name__)
            if self.process.first and not broken:
                raise
            heard = self._heard_failure()
            if heard and self.process.first:
                raise StageError(heard) from error
            raise (FirstProcessError(heard) if heard else error) from None

    def _tell_failure(self, words: str) -> None:
        try:
            self.tell(f"{_FAILED}/{self.process.rank}", words)
        except RuntimeError:
            return  # nobody is left to hear it

    def _heard_failure(self) -> str:
        """Return what another process says of its failure, where one does within a few seconds; others hear the first alone."""
        ranks = range(1, self.process.size) if self.process.first else (0,)
        end = time.monotonic() + _LAST_WORD_SECONDS
        while time.monotonic() < end:
            for rank in ranks:
                try:
                    words = self._read(f"{_FAILED}/{rank}")
                except FirstProcessError as error:
                    return str(error)
                if words or (words is not None and not self.process.first):
                    return f"process {rank} of {self.process.size} failed: {words}"
            time.sleep(_POLL_SECONDS)
        return ""

    @contextmanager
    def group(self, name: str, device: str) -> Iterator[None]:
        """Hold the process group of one piece of work: torch's default group, of all processes, gone at the end.

        name: of the work, the same in every process and of no other work of the launch: under a launcher the store is that
        of the whole launch, and addresses of an earlier group would be taken for those of this one.
        """
        if not self.process.launched:
            yield
            return
        import torch
        from torch import distributed
        from torch.distributed.distributed_c10d import PrefixStore

        if device == "cuda":
            torch.cuda.set_device(self.process.local % torch.cuda.device_count())
        try:
            distributed.init_process_group(
                "cuda:nccl,cpu:gloo" if device == "cuda" else "gloo",
                store=PrefixStore(f"group/{name}", self.store),
                rank=self.process.rank,
                world_size=self.process.size,
            )
            yield
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()


class FirstProcessError(StageError):
    """The first process failed, and has said why itself."""


def _is_broken_connection(error: BaseException) -> bool:
    """Say whether an error is how gloo, NCCL or the store see that another process is gone."""
    parts = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo/transport", "NCCL")
    return isinstance(error, RuntimeError) and any(part in str(error) for part in parts)


def join(found: Process | None = None) -> Launch:
    """Return the launch that this process belongs to, with its store open where a launcher started it.

    Raises StageError where the others do not come.
    """
    found = found or process()
    if not found.launched:
        return Launch(found)
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(rendezvous("env://", found.rank, found.size, timeout=timedelta(seconds=_MEET_SECONDS)))
        return Launch(found, PrefixStore(meet(found, store), store))
    except RuntimeError as error:
        raise StageError(
            f"process {found.rank} of {found.size}: the processes of this launch do not find each other "
            f"({str(error).partition(chr(10))[0]}); look at MASTER_ADDR and MASTER_PORT"
        ) from error


def meet(found: Process, store: Any) -> str:
    """Return a word that the processes that are alive now share, and none that was before.

    torchrun keeps its store when it starts processes anew, with all that was written there. So the first process gives a
    fresh word, every other one answers it with a fresh word of its own, and is done where it finds that in the reply.

    Raises StageError where one does not come.
    """
    own, answered = uuid.uuid4().hex, ""
    missing = set(range(1, found.size)) if found.first else {0}
    answers: list[str] = []
    if found.first:
        store.set("call", own)
    end = time.monotonic() + _MEET_SECONDS
    while missing:
        if time.monotonic() > end:
            numbers = ", ".join(map(str, sorted(missing)))
            raise StageError(
                f"process {found.rank} of {found.size} waited for {numbers}, in vain; are all of them started?"
            )
        if found.first:
            for rank in sorted(missing):
                call, _, answer = _word(store, f"answer/{rank}").partition(" ")
                if call == own:
                    answers.append(answer)
                    missing.remove(rank)
        elif (call := _word(store, "call")) and call != answered:
            store.set(f"answer/{found.rank}", f"{call} {own}")
            answered = call
        elif own in (reply := _word(store, "reply").split()):
            return reply[0]
        time.sleep(_POLL_SECONDS / 4)
    store.set("reply", " ".join([own, *answers]))
    return own


def _word(store: Any, topic: str) -> str:
    return str(store.get(topic).decode()) if store.check([topic]) else ""
