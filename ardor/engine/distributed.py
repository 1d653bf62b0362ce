"""One run in several processes, on one machine or many: plain torch.distributed, without a wrapper around the net.

DDP assumes one forward and one backward pass a step. A method makes two, and calls `features`, and its gradients then
differ between processes silently. Here each process has a shard of every batch, and one all-reduce after `backward`
sums the gradients, weighted by the shard's share of the images: the gradient of the mean over the batch.

In a run of one process every function here is the identity.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ardor.engine.folding import is_norm_act
from ardor.errors import ConfigError, RunError
from ardor.storage.imports import require_package
from ardor.storage.locks import Waiting


def world_size() -> int:
    """The number of processes of the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0; process 0 writes the files."""
    return dist.get_rank() if world_size() > 1 else 0


def launched() -> bool:
    """Whether torchrun started this process. LOCAL_RANK alone does not tell: other programs set it, too."""
    return dist.is_available() and dist.is_torchelastic_launched()


def local_rank() -> int:
    """The number of this process on its machine, from 0; 0 for a process that is alone."""
    return dist.get_node_local_rank(fallback_rank=0) if launched() or world_size() > 1 else 0


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """The process group of torchrun's processes, left at the end; nothing without torchrun or in an existing group.

    NCCL between GPUs, gloo between CPUs.
    """
    if not launched() or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, number, count = _rendezvous()
    backend = "nccl" if device.type == "cuda" else "gloo"
    # the others wait while process 0 examines the teacher
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=timedelta(hours=6))
    try:
        yield
    finally:
        dist.destroy_process_group()


def _rendezvous() -> tuple[Any, int, int]:
    """A store of this start alone, this process's rank, and the number of processes.

    torchrun keeps one store over its restarts, and machines may count these differently, so that the address of an
    earlier start could be read from it (pytorch/pytorch#135712, #167288). So process 0 names the start anew, and the
    others wait until it has read their own new names.
    """
    from torch.distributed.distributed_c10d import PrefixStore  # not in a torch without distributed
    from torch.distributed.rendezvous import rendezvous

    store, number, count = next(rendezvous("env://"))
    name = uuid.uuid4().hex
    if number == 0:
        store.set("start", name)
        present = []
        for other in range(1, count):
            waiting = Waiting()
            while not store.check([f"{name}/{other}"]):
                waiting("process {} of {} to start".format, other, count)
                time.sleep(0.05)
            present.append(store.get(f"{name}/{other}").decode())
        store.set(f"{name}/seen", " ".join(present))
        return PrefixStore(name, store), number, count
    start, waiting = "", Waiting()
    while True:
        if store.check(["start"]) and store.get("start").decode() != start:
            start = store.get("start").decode()
            store.set(f"{start}/{number}", name)
        if start and store.check([f"{start}/seen"]) and name in store.get(f"{start}/seen").decode().split():
            return PrefixStore(start, store), number, count
        waiting(lambda: f"process 0 of {count} to start, or another one that it waits for")
        time.sleep(0.05)


@contextlib.contextmanager
def rank_zero_first() -> Iterator[None]:
    """Run the block in process 0 before the others, which use what it creates."""
    if rank() > 0:
        _meet(f"process 0 of {world_size()}, which examines the teacher or opens the run's folder")
    yield
    if rank() == 0 and world_size() > 1:
        _meet(f"the other processes of {world_size()}")


def _meet(others: str) -> None:
    """Wait until every process is here, with a warning each minute."""
    work, waiting = dist.barrier(async_op=True), Waiting()
    while not work.is_completed():
        waiting(lambda: others)
        time.sleep(0.005)
    work.wait()


def shard(rows: Tensor) -> tuple[Tensor, float]:
    """This process's part of (B,) rows, every n-th, and its share of them; one row of share 0 where there is none.

    So every process makes the same passes, and has gradients of the same parameters.
    """
    part = rows[rank() :: world_size()]
    return (part, len(part) / len(rows)) if len(part) else (rows[:1], 0.0)


@torch.no_grad()
def sum_gradients(parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
    """Sum the gradients and the loss over all processes, in one all-reduce, and return the loss."""
    if world_size() == 1:
        return loss
    learning = [p for p in parameters if p.grad is not None]
    flat = torch.cat([loss.reshape(1), *(p.grad.reshape(-1).to(loss.dtype) for p in learning if p.grad is not None)])
    dist.all_reduce(flat)
    _, *summed = flat.split([1, *(p.numel() for p in learning)])
    for p, grad in zip(learning, summed, strict=True):
        p.grad = grad.view_as(p).to(p.dtype)
    return flat[0]


def total(values: Mapping[str, float]) -> dict[str, float]:
    """The sum over all processes of numbers by name; all have the same names in the same order."""
    if world_size() == 1 or not values:
        return dict(values)
    flat = torch.tensor(list(values.values()), dtype=torch.float64, device=_device())
    dist.all_reduce(flat)
    return dict(zip(values, flat.tolist(), strict=True))


def largest(value: float) -> float:
    """The largest of a number over all processes."""
    if world_size() == 1:
        return value
    flat = torch.tensor([value], dtype=torch.float64, device=_device())
    dist.all_reduce(flat, dist.ReduceOp.MAX)
    return flat.item()


@torch.no_grad()
def summed(values: Tensor) -> Tensor:
    """The sum over all processes of a tensor that each has."""
    if world_size() == 1:
        return values
    message = values.detach().to(_device(), copy=True).contiguous()
    dist.all_reduce(message)
    return message.to(values)


@torch.no_grad()
def broadcast(tensors: Sequence[Tensor]) -> None:
    """Copy process 0's values of these tensors to every process."""
    for value in tensors if world_size() > 1 else ():
        message = value.detach().to(_device()).contiguous()
        dist.broadcast(message, 0)
        value.copy_(message)


def gathered(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """The values of these tensors in every process, in the order of the processes."""
    if world_size() == 1:
        return [list(tensors)]
    own = [value.detach().to(_device()).contiguous().reshape(-1).view(torch.uint8) for value in tensors]
    message = torch.cat([torch.zeros(1, dtype=torch.uint8, device=_device()), *own])  # never empty
    received = [torch.empty_like(message) for _ in range(world_size())]
    dist.all_gather(received, message)
    sizes = [1, *map(len, own)]
    return [
        [
            piece.clone().view(value.dtype).view(value.shape)
            for piece, value in zip(bytes_.split(sizes)[1:], tensors, strict=True)
        ]
        for bytes_ in received
    ]


def _device() -> torch.device:
    """The device of messages: NCCL has no tensors of the CPU."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def require_equal(done: int, folder: str | Path | None, step: int = 0) -> None:
    """Refuse processes that have finished other numbers of epochs or steps. Raises RunError in all of them."""
    first = torch.tensor([done, step])
    broadcast([first])
    if total({"others": float(first.tolist() != [done, step])})["others"]:
        more = f" and {step} step{'s' * (step > 1)}" if step else ""
        raise RunError(
            f"expected one run that all processes see, got {folder} with {done} epochs{more} in process {rank()} and "
            "another number elsewhere: type --run with a folder that all machines share"
        )


def require_gpus(device: torch.device) -> None:
    """Refuse to synchronise batch norm on a CPU, for which torch cannot. Raises ConfigError."""
    if device.type != "cuda":
        raise ConfigError(
            f"expected GPUs to synchronise batch norm, which torch has for them alone, got {device}: leave "
            "--recipe.sync_batchnorm out, or train a net without batch norm"
        )


def synchronised(net: nn.Module, device: torch.device) -> nn.Module:
    """`net` with batch norm over the batches of all processes, in place. Raises ConfigError on a CPU."""
    require_gpus(device)
    layers = require_package("timm.layers", "timm", "a net of timm") if any(map(is_norm_act, net.modules())) else None
    convert = nn.SyncBatchNorm.convert_sync_batchnorm if layers is None else layers.convert_sync_batchnorm
    return convert(net)  # type: ignore[no-any-return]  # torch's would lose the activations of timm's norms
