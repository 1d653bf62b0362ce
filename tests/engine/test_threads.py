"""How many threads: a clock that a net moves by what its passes cost, so that nothing here depends on a machine."""

import os
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from ardor.engine import threads
from ardor.errors import ConfigError
from ardor.models import hash_of
from ardor.testing import TinyNet, global_rng, require_same, snapshot
from tests.conftest import batch, filled


class Clocked(nn.Module):
    """A net of which an image costs `cost[threads]` seconds on a clock of its own. `len` of a batch: no twin."""

    def __init__(self, cost):
        super().__init__()
        self.now, self.cost, self.asked = 0.0, cost, []

    def forward(self, x):
        number = torch.get_num_threads()
        self.asked.append((number, len(x)))
        self.now += self.cost[number] * len(x)
        return x.flatten(1)


@pytest.fixture
def free(monkeypatch):
    """As a shell of 8 cores is found: nobody has set anything. torch's number is put back."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    with threads.restored():
        torch.set_num_threads(8)
        monkeypatch.setattr(threads, "DEFAULT", 8)
        yield monkeypatch


@pytest.fixture
def quick(free):
    """The same with 2 cores, for nets that really compute."""
    torch.set_num_threads(2)
    free.setattr(threads, "DEFAULT", 2)
    free.setattr(threads, "BUDGET", 0.1)
    return free


def settled(monkeypatch, cost, images=64):
    net = Clocked(cost)
    monkeypatch.setattr(threads, "perf_counter", lambda: net.now)
    return net, threads.settle(net, torch.zeros(images, 1, 2, 2))


@pytest.mark.parametrize(
    ("cost", "number", "why"),
    [
        ({1: 1, 2: 1.5, 4: 2, 8: 3}, 1, "1 thread: 2 took 1.5 times as long, 4 took 2.0 times as long, 8 took 3.0"),
        ({1: 8, 2: 4, 4: 2, 8: 1}, 8, "8 threads: 2 took 4.0 times as long, 4 took 2.0 times as long"),
        ({1: 4, 2: 2, 4: 1, 8: 1.5}, 4, "4 threads: 1 took 4.0 times as long, 2 took 2.0 times as long, 8 took 1.5"),
        ({1: 1.09, 2: 1, 4: 1, 8: 1}, 1, "1 thread: 2 gained less than a tenth"),
        ({1: 1.11, 2: 1, 4: 1, 8: 1}, 2, "2 threads: 1 took 1.1 times as long"),
    ],
)
def test_the_fastest_is_taken_and_fewer_where_more_gain_too_little(free, cost, number, why):
    net, found = settled(free, {n: 0.001 * each for n, each in cost.items()})
    assert found.number == torch.get_num_threads() == number
    assert str(found).startswith(why)
    for n, seconds in found.seconds.items():
        assert seconds / found.seconds[8] == pytest.approx(cost[n] / cost[8])
    assert net.now < 2


def test_fastest_is_the_fewest_within_a_tenth():
    assert threads.fastest({2: 1.0, 1: 1.1}) == 1
    assert threads.fastest({2: 1.0, 1: 1.11}) == 2
    assert threads.fastest({4: 1.0, 2: 1.08, 1: 1.2}) == 2


def test_a_disturbance_in_one_round_does_not_decide(free):
    net = Clocked({1: 0.001, 2: 0.0005, 4: 0.0005, 8: 0.0005})
    plain, seen = net.forward, []

    def disturbed(x):
        out = plain(x)
        if torch.get_num_threads() == 2 and len(x) > 1:
            seen.append(x)
            net.now += 0.5 if len(seen) == 2 else 0  # the first that is timed
        return out

    net.forward = disturbed
    free.setattr(threads, "perf_counter", lambda: net.now)
    free.setattr(threads, "BUDGET", 10.0)
    assert threads.settle(net, torch.zeros(64, 1, 2, 2)).number == 2
    assert len(seen) > 4


def test_more_images_are_timed_where_there_is_time_for_them(free):
    net, _ = settled(free, dict.fromkeys((1, 2, 4, 8), 1e-5))
    assert max(size for _, size in net.asked) == 64
    # ten images of 0.01 s fill a pass
    net, _ = settled(free, dict.fromkeys((1, 2, 4, 8), 0.01))
    assert {size for _, size in net.asked} == {1, 10}
    # with many threads a pass holds more of them
    net, found = settled(free, {1: 0.08, 2: 0.04, 4: 0.02, 8: 0.01})
    assert max(size for _, size in net.asked) in (9, 10)
    assert found.number == 8


def test_few_threads_are_left_out_where_they_are_hopeless(free):
    net, found = settled(free, {1: 0.08, 2: 0.04, 4: 0.02, 8: 0.01})
    assert [n for n, size in net.asked if size > 1 and n == 1] == []
    assert set(found.seconds) == {2, 4, 8}
    assert net.now < 2.5


@pytest.mark.parametrize(
    ("cost", "number"),
    [
        ({1: 0.01, 2: 1, 4: 2, 8: 3}, 1),  # threads that wait for cores that others use
        ({1: 0.01, 2: 0.1, 4: 0.1, 8: 0.2}, 1),
        ({1: 0.7, 2: 0.6, 4: 0.5, 8: 0.4}, 8),  # one image takes that long
    ],
)
def test_it_ends_soon_even_so(free, cost, number):
    net, found = settled(free, cost)
    assert found.number == number
    assert set(found.seconds) == {1, 8}
    assert {size for _, size in net.asked} == {1}
    assert net.now <= 2 * cost[1] + max(1.5, 2 * cost[8])


def test_where_time_is_up_one_thread_is_taken_to_need_as_long_for_each_image(free):
    class Shared(Clocked):
        def forward(self, x):
            self.now += 2.0 * (len(x) > 1)  # somebody else begins
            return super().forward(x)

    net = Shared({1: 0.02, 2: 0.01, 4: 0.01, 8: 0.01})
    free.setattr(threads, "perf_counter", lambda: net.now)
    found = threads.settle(net, torch.zeros(64, 1, 2, 2))
    size = max(size for _, size in net.asked)
    assert size > 1
    assert found.number == 1
    assert found.seconds == pytest.approx({1: 0.02 * size, 8: 2 + 0.01 * size})


def test_torchs_own_number_is_tried_though_it_is_no_power_of_two(free):
    torch.set_num_threads(6)
    free.setattr(threads, "DEFAULT", 6)
    _, found = settled(free, {1: 0.003, 2: 0.002, 4: 0.0015, 6: 0.001})
    assert found.number == 6
    assert 4 in found.seconds


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
@pytest.mark.parametrize("keep", [None, 2])
def test_what_the_environment_says_is_left(free, name, keep):
    free.setenv(name, "8")
    found = threads.settle(TinyNet(), torch.zeros(4, 1, 8, 8), keep)
    assert (found.number, torch.get_num_threads()) == (8, 8)
    assert str(found) == f"8 threads, as {name} says"
    assert not found.seconds


@pytest.mark.parametrize("keep", [None, 2])
def test_what_torch_was_told_is_left(free, keep):
    torch.set_num_threads(3)
    found = threads.settle(TinyNet(), torch.zeros(4, 1, 8, 8), keep)
    assert (found.number, torch.get_num_threads()) == (3, 3)
    assert str(found) == "3 threads, as torch.set_num_threads was told"


def test_an_empty_variable_says_nothing(quick):
    quick.setenv("OMP_NUM_THREADS", "")
    assert threads.settle(TinyNet(), torch.zeros(4, 1, 8, 8)).seconds


@pytest.mark.parametrize("keep", [1, 2, 8])
def test_a_run_that_goes_on_keeps_its_number(free, keep):
    found = threads.settle(TinyNet(), torch.zeros(4, 1, 8, 8), keep)
    assert (found.number, torch.get_num_threads()) == (keep, keep)
    assert str(found).endswith(", as this run began")


def test_a_run_from_a_larger_machine_is_measured_anew(quick):
    found = threads.settle(TinyNet(), torch.zeros(4, 1, 8, 8), 64)
    assert found.seconds
    assert found.number <= 2


def test_what_was_chosen_here_is_not_taken_for_the_users(free):
    _, first = settled(free, {1: 0.002, 2: 0.001, 4: 0.003, 8: 0.003})
    _, second = settled(free, {1: 0.004, 2: 0.003, 4: 0.001, 8: 0.003})
    assert (first.number, second.number, torch.get_num_threads()) == (2, 4, 4)
    with threads.restored():
        assert settled(free, {1: 0.001, 2: 0.002, 4: 0.002, 8: 0.002})[1].number == 1
        assert threads.settle(TinyNet(), torch.zeros(4, 1, 8, 8), 2).number == 2
        assert settled(free, {1: 0.001, 2: 0.002, 4: 0.002, 8: 0.002})[1].number == 1
    assert torch.get_num_threads() == 4
    torch.set_num_threads(1)  # chosen above, but that was put back
    assert "was told" in str(threads.settle(TinyNet(), torch.zeros(4, 1, 8, 8)))


def test_a_number_that_is_none_is_refused(free):
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        threads.settle(TinyNet(), torch.zeros(4, 1, 8, 8), 0)


def test_on_another_device_nothing_is_done(free):
    images, far = torch.zeros(4, 1, 8, 8), torch.zeros(4, 1, 8, 8, device="meta")
    for net, x in ((TinyNet().to("meta"), images), (TinyNet(), far)):
        found = threads.settle(net, x, 2)
        assert (found.number, torch.get_num_threads()) == (8, 8)
        assert "another device" in str(found)


def test_one_thread_is_one_thread(free):
    torch.set_num_threads(1)
    free.setattr(threads, "DEFAULT", 1)
    found = threads.settle(TinyNet(), torch.zeros(4, 1, 8, 8))
    assert str(found) == "1 thread, torch's own number"


@pytest.mark.parametrize("x", [torch.zeros(4, 3, 8, 8), torch.zeros(0, 1, 8, 8)], ids=["channels", "none"])
def test_a_net_that_fails_here_is_left_to_fail_where_it_matters(free, x):
    net = TinyNet().train()
    before = snapshot(net)
    found = threads.settle(net, x)
    assert (found.number, torch.get_num_threads()) == (8, 8)
    assert not found.seconds
    require_same(before, snapshot(net), threads.settle, "after an error")


def test_stopped_by_hand_it_puts_the_number_back(free):
    class Stopped(nn.Module):
        def forward(self, x):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        threads.settle(Stopped(), torch.zeros(4, 1, 8, 8))
    assert torch.get_num_threads() == 8


class Random(TinyNet):
    """Draws from the global generator even in eval mode."""

    def forward(self, x):
        return super().forward(x + torch.rand_like(x))


@pytest.mark.parametrize("net", [TinyNet(), Random()], ids=["plain", "random"])
@pytest.mark.parametrize("gradients", [True, False])
def test_net_images_and_generators_are_as_before(quick, net, gradients):
    x = batch()[0].requires_grad_()
    filled(net).train()
    net.layers[1].eval()
    net.linear.bias.requires_grad_(False)
    before, weights, random, image = snapshot(net), hash_of(net), global_rng(), x.detach().clone()
    with torch.set_grad_enabled(gradients):
        assert threads.settle(net, x).seconds
        assert torch.is_grad_enabled() == gradients
    require_same(before, snapshot(net), threads.settle, "afterwards")
    assert (weights, random) == (hash_of(net), global_rng())
    assert torch.equal(x, image)
    assert x.grad is None
    assert all(p.grad is None for p in net.parameters())


def test_restored_puts_back_what_was_chosen():
    number = torch.get_num_threads()
    with pytest.raises(ValueError, match="inside"), threads.restored():
        torch.set_num_threads(number + 1)
        raise ValueError("inside")
    assert torch.get_num_threads() == number


keep_memory = threads.keep_memory  # the real one: other tests go without

FAULTS = """
import resource, torch
from ardor.engine.threads import keep_memory
torch.set_num_threads(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.empty(12 * 2**20).fill_(1)  # 48 MiB: above the 32 MiB up to which glibc itself learns to keep a block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
before = faults()
kept = keep_memory()
faults()
print(kept, before, faults())
"""


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="the allocator is another")
def test_kept_memory_is_used_again():
    free = {n: v for n, v in os.environ.items() if not n.startswith("MALLOC_") and n != "GLIBC_TUNABLES"}
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, check=True, timeout=120, env=free)
    kept, before, after = done.stdout.decode().split()
    assert kept == "True"
    assert int(after) < int(before) / 2


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_an_allocator_that_the_user_has_set_is_left(monkeypatch, name):
    monkeypatch.setenv(name, "glibc.malloc.arena_max=4")
    monkeypatch.setattr(threads.ctypes, "CDLL", None)
    assert not keep_memory()


@pytest.mark.parametrize("platform", ["darwin", "win32", "android"])
def test_elsewhere_nothing_is_done(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(threads.ctypes, "CDLL", None)
    assert not keep_memory()


def test_without_glibc_nothing_is_done(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(threads.ctypes, "CDLL", lambda name: object())
    assert not keep_memory()
