"""One run in several processes, on one machine or many: plain torch.distributed, no wrapper around the net.

A wrapper such as DDP counts one forward and one backward pass a step. A method makes two, and asks for features too,
and its gradients then differ between processes without a word. Here each process has a share of every batch, and after
`backward` one all-reduce sums the gradients, each weighted by its share of the images: the mean over the whole batch.

A process that was started alone is the first of one, and nothing here does anything.
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

from ardor.errors import ConfigError, RunError


def world_size() -> int:
    """How many processes share the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is; the first, 0, is the one that writes."""
    return dist.get_rank() if world_size() > 1 else 0


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Meet the other processes that torchrun started, and part at the end; alone where it started none.

    NCCL between GPUs, gloo between CPUs. Who made a process group already keeps it.
    """
    if not dist.is_available() or not dist.is_torchelastic_launched() or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, place, number = _rendezvous()
    backend = "nccl" if device.type == "cuda" else "gloo"
    # the others wait while the first examines the teacher, whatever that takes
    dist.init_process_group(backend, store=store, rank=place, world_size=number, timeout=timedelta(hours=6))
    try:
        yield
    finally:
        dist.destroy_process_group()


def _rendezvous() -> tuple[Any, int, int]:
    """A store of this start's own, this process's rank, and how many there are.

    torchrun keeps one store over its restarts, and machines may count these differently: a late process's last address
    would be found there, where nobody is any more (pytorch/pytorch#135712, #167288). So the first one gives the start
    a new name, and the others wait until that one has seen their own new names.
    """
    from torch.distributed.distributed_c10d import PrefixStore  # here, for a torch without them may still train alone
    from torch.distributed.rendezvous import rendezvous

    store, place, number = next(rendezvous("env://"))
    own = uuid.uuid4().hex
    if place == 0:
        store.set("start", own)
        seen = [store.get(f"{own}/{other}").decode() for other in range(1, number)]
        store.set(f"{own}/seen", " ".join(seen))
        return PrefixStore(own, store), place, number
    start = ""
    while True:
        if store.get("start").decode() != start:
            start = store.get("start").decode()
            store.set(f"{start}/{place}", own)
        if store.check([f"{start}/seen"]) and own in store.get(f"{start}/seen").decode().split():
            return PrefixStore(start, store), place, number
        time.sleep(0.05)


@contextlib.contextmanager
def rank_zero_first() -> Iterator[None]:
    """The first process goes through the block before the others: it makes what they find."""
    if rank() > 0:
        dist.barrier()
    yield
    if rank() == 0 and world_size() > 1:
        dist.barrier()


def shard(rows: Tensor) -> tuple[Tensor, float]:
    """This process's share of (B,) rows, every n-th, and its weight; where there are too few, one of weight 0.

    So every process makes the same passes, and has gradients for the same parameters.
    """
    own = rows[rank() :: world_size()]
    return (own, len(own) / len(rows)) if len(own) else (rows[:1], 0.0)


@torch.no_grad()
def sum_gradients(parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
    """Sum every parameter's gradient, and the loss, over all processes in one message; the loss of all is returned.

    What each process brings is weighted by its share already.
    """
    if world_size() == 1:
        return loss
    learning = [p for p in parameters if p.grad is not None]
    flat = torch.cat([loss.reshape(1), *(p.grad.reshape(-1).to(loss.dtype) for p in learning if p.grad is not None)])
    dist.all_reduce(flat)
    _, *summed = flat.split([1, *(p.numel() for p in learning)])
    for p, grad in zip(learning, summed, strict=True):
        p.grad = grad.view_as(p).to(p.dtype)
    return flat[0]


def total(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """The sum over all processes of numbers by name; all must have the same names in the same order."""
    if world_size() == 1 or not values:
        return dict(values)
    flat = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    dist.all_reduce(flat)
    return dict(zip(values, flat.tolist(), strict=True))


@torch.no_grad()
def broadcast(tensors: Sequence[Tensor]) -> None:
    """Give every process the first one's values of these tensors."""
    if world_size() > 1:
        on_gpu = dist.get_backend() == "nccl"  # which knows no other tensors
        for value in tensors:
            whole = (value.detach().cuda() if on_gpu else value.detach()).contiguous()
            dist.broadcast(whole, 0)
            value.copy_(whole)


def require_equal(done: int, folder: str | Path | None) -> None:
    """Refuse processes that are not as far as the first. Raises RunError in all of them."""
    if world_size() == 1:
        return
    device = torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
    first = torch.tensor(done, device=device)
    dist.broadcast(first, 0)
    if total({"others": float(int(first) != done)}, device)["others"]:
        raise RunError(
            f"expected one run that all processes see, got {folder} with {done} epochs in process {rank()} and another "
            "number elsewhere: type --run with a folder that all machines share"
        )


def synchronised(net: nn.Module, device: torch.device) -> nn.Module:
    """`net` with batch norm over the batches of all processes, in place. Raises ConfigError where torch has none."""
    if device.type != "cuda":
        raise ConfigError(
            f"expected GPUs to synchronise batch norm, which torch has for them alone, got {device}: leave "
            "--recipe.sync_batchnorm away, or train a net without batch norm"
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(net)  # type: ignore[no-any-return]
