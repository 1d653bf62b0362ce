"""Several processes of one command on this machine, by torch's elastic launcher."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from ardor.cli.sentences import in_words_of, sentence, signals
from ardor.engine import distributed
from ardor.errors import ArdorError, ConfigError, RunError

HANDLED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
"""The signals that the launcher hands to the processes."""
NOTICED = 0.5
"""Seconds in which the launcher notices a process that ended, before those end that lost their connection to it."""


def require_processes(count: int, batch: int, device: str = "cpu") -> None:
    """Refuse a number of processes that cannot share a step. Raises ConfigError."""
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    most = min(batch, gpus or batch)
    if not 1 <= count <= most:
        of = f"one for each of {gpus} GPUs" if gpus and count <= batch else f"one for each image of a step of {batch}"
        raise ConfigError(f"expected --processes from 1 to {most}, {of}, got {count}: type --processes {most}")
    if count > 1 and distributed.launched():
        raise ConfigError(
            f"expected processes of torchrun or of --processes, got --processes {count} inside torchrun: leave "
            "--processes out"
        )


def launch(command: str, count: int, function: Callable[..., int], *arguments: Any) -> None:
    """Call `function(*arguments)` in `count` processes, as torchrun would. Process 0 has this one's output.

    Raises
    ------
    RunError
        With the sentence of the process that failed first.
    KeyboardInterrupt
        By a signal to this process, which all of them get.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    number = 0
    with tempfile.TemporaryDirectory(prefix="ardor-") as folder, _quiet(), _handlers():
        own = {"signals_to_handle": ",".join(HANDLED)}
        options: dict[str, Any] = own if "signals_to_handle" in {f.name for f in fields(LaunchConfig)} else {}
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=count, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
            rdzv_endpoint="localhost:0", local_addr="localhost", max_restarts=0, monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(log_dir=folder, local_ranks_filter={0}),
            **options,
        )  # fmt: skip
        try:
            elastic_launch(config, _process)(command, Path(folder), function, arguments)
        except SignalException as error:
            number = error.sigval
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode <= 128:
                raise _cause(Path(folder), rank, failure.exitcode, count) from None
            number = failure.exitcode - 128  # a signal to one process
    if number:
        signal.raise_signal(number)


def _process(command: str, folder: Path, function: Callable[..., int], arguments: tuple[Any, ...]) -> None:
    """One of the processes: its refusal is a file, and process 0 of the launcher writes one of them."""
    torch.set_num_threads(1)  # as torchrun does; the run sets its own
    with signals() as received:
        try:
            in_words_of(command, function, *arguments)
        except KeyboardInterrupt:
            received.append(signal.SIGINT)
        except Exception as error:
            if not received:
                in_words_of(command, _leave, folder, error)
        if received:
            sys.exit(128 + received[0])


def _leave(folder: Path, error: Exception) -> int:
    """Write a refusal and end; an error that may be another process's end a moment later than that one."""
    kind = "refused" if isinstance(error, ArdorError) else "failed"
    text = f"{sentence(error)}\n{traceback.format_exc()}"
    (folder / f"{kind}-{distributed.local_rank()}").write_text(text, encoding="utf-8", errors="replace")
    if kind == "failed":
        time.sleep(NOTICED)
    sys.exit(2)


def _cause(folder: Path, rank: int, code: int, count: int) -> RunError:
    """Why the processes ended: one that was killed, else a refusal, else any other error."""
    left = sorted(folder.glob("refused-*")) + sorted(folder.glob("failed-*"))
    if code < 0 or not left:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return RunError(
            f"expected {count} processes that finish, got process {rank} {how}; the others were stopped: type the same "
            "again, and it goes on from what is saved"
        )
    text, _, trace = left[0].read_text(encoding="utf-8").partition("\n")
    error = RunError(text)
    error.add_note(trace)
    return error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No log of the launcher: its tracebacks tell what one sentence tells."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _handlers() -> Iterator[None]:
    """The launcher leaves its own handlers of signals."""
    numbers = [getattr(signal, name) for name in (*HANDLED, "SIGQUIT") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                with contextlib.suppress(ValueError):  # of another thread
                    signal.signal(number, handler)
