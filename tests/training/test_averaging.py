"""Averages of weights against torch's own, and batch-norm statistics that are those of the averaged net."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn, update_bn

import ardor
import ardor.models.builders
import ardor.storage.config
from ardor.errors import CheckpointError, ConfigError
from ardor.losses import ce
from ardor.noise import Noise
from ardor.storage.tensors import read_tensors
from ardor.training.averaging import EMA, SWA, Average, require_reached, restatistic
from tests.conftest import bits, same

X = Noise(0, torch.arange(48), "x").uniform((1, 8, 8))
Y = torch.arange(48) % 10


def student(width=4, **options):
    return ardor.models.build("small_cnn", width=width, **options)


def trained(net, seed, steps=1):
    """A few steps of SGD, as the loop makes them."""
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    for k in range(steps):
        rows = Noise(seed, torch.arange(16), "rows", k).uniform((1,)).mul(48).long().flatten()
        optimiser.zero_grad()
        ce(net.train()(X[rows]), Y[rows]).mean().backward()
        optimiser.step()
    return net


def run(averaging, net, steps=16, per_epoch=4, average=None, first=0):
    """The part of the loop that averages."""
    average = average or Average.of(net)
    for k in range(first, steps):
        trained(net, k)
        averaging.update(average, net, (k // per_epoch) + (k % per_epoch + 1) / per_epoch)
    return average


def alike(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_ema_is_torchs_bit_for_bit(decay):
    net = student()
    theirs = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay))
    average = Average.of(net)
    for k in range(20):
        trained(net, k)
        EMA(decay, warmup=False).update(average, net, k / 4)
        theirs.update_parameters(net)
    assert average.count == 20
    assert alike(average.net(net), theirs.module)
    assert alike(average.net(net), net) == (decay == 0)


def test_ema_by_hand_while_it_warms_up():
    net = nn.Linear(1, 1, bias=False)
    average, averaging = Average.of(net), EMA(0.3)
    wanted = None
    for n, w in enumerate((5.0, 1.0, -2.0, 4.0, 8.0, 1.0)):
        net.weight.data.fill_(w)
        d = min(0.3, (1 + n) / (10 + n))
        wanted = w if wanted is None else d * wanted + (1 - d) * w
        averaging.update(average, net, 0.0)
        assert float(average.weights["weight"]) == pytest.approx(wanted, rel=1e-6)
    assert [min(0.3, (1 + n) / (10 + n)) < 0.3 for n in (1, 2, 3)] == [True, True, False]


@pytest.mark.parametrize(
    ("start", "every", "taken"), [(1, 1, range(1, 11)), (3, 1, range(3, 11)), (4, 3, [4, 7, 10]), (11, 1, [])]
)
def test_swa_is_torchs_over_the_ends_of_the_right_epochs(start, every, taken):
    net = student()
    exact = AveragedModel(net, multi_avg_fn=get_swa_multi_avg_fn())
    near = AveragedModel(net)
    average = Average.of(net)
    for k in range(40):
        trained(net, k)
        SWA(start, every).update(average, net, (k // 4) + (k % 4 + 1) / 4)
        if k % 4 == 3 and k // 4 + 1 in taken:
            exact.update_parameters(net)
            near.update_parameters(net)
    assert average.count == len(taken)
    if not len(taken):
        assert alike(average.net(net), net)  # nothing is averaged yet: the student, not where it began
        return
    assert alike(average.net(net), exact.module)
    for p, q in zip(average.net(net).parameters(), near.module.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_the_end_of_an_epoch_is_met_whatever_its_length():
    net = nn.Linear(1, 1)
    for length in (1, 3, 7, 49, 391, 1563):
        average = Average.of(net)
        for epoch in (1, 2, 3):
            for number in range(1, length + 1):
                SWA(2).update(average, net, epoch - 1 + number / length)
        assert average.count == 2


def test_ema_is_the_student_up_to_its_start():
    """Gowal et al.: k counts the steps since then, and d is min(decay, (1 + k) / (10 + k))."""
    net, weights = student(), []
    average, averaging = Average.of(net), EMA(0.995, start=1.5)
    for step in range(1, 13):  # four steps an epoch
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1 * step)
        weights.append([p.detach().clone() for p in net.parameters()])
        averaging.update(average, net, step / 4)
        if step < 6:
            expected, k = weights[-1], 0
        else:
            k += 1
            d = (1 + k) / (10 + k)
            expected = [d * a + (1 - d) * w for a, w in zip(expected, weights[-1], strict=True)]
        for value, mean in zip(average.weights.values(), expected, strict=True):
            torch.testing.assert_close(value, mean)


@pytest.mark.parametrize("averaging", [EMA(0.9), EMA(0.9, warmup=False), SWA(2), SWA(1, 3)])
def test_it_goes_on_to_the_last_bit(averaging, tmp_path):
    for cut in (1, 6, 12):
        net = student()
        whole = run(averaging, copy.deepcopy(net))
        half = run(averaging, net, steps=cut)
        save_file(half.tensors(), tmp_path / "half.safetensors")
        again = Average.of(student(seed=5))
        again.load(read_tensors(tmp_path / "half.safetensors")[0])
        run(averaging, net, average=again, first=cut)
        assert again.count == whole.count > 0
        assert same(again.tensors(), whole.tensors())
        assert alike(again.net(net), whole.net(net))


def test_a_state_of_another_student_is_refused_and_changes_nothing():
    net = student()
    average = run(EMA(), net, steps=3)
    before = {k: v.clone() for k, v in average.tensors().items()}
    good = {k: v + 1 for k, v in before.items()}
    for tensors in (
        Average.of(student(width=8)).tensors(),
        {k: v for k, v in good.items() if k != "count"},
        {k: v for k, v in good.items() if "linear" not in k},
        {**good, "weights/more": X},
        {**good, "weights/linear.bias": good["weights/linear.bias"].double()},
    ):
        with pytest.raises(CheckpointError, match=r"^expected the averaged weights of this .*: pass run="):
            average.load(tensors)
        assert same(average.tensors(), before)


def test_the_student_and_the_average_are_apart():
    net = student()
    before = bits(net)
    average = Average.of(net)
    state, generator = net.training, torch.get_rng_state()
    for averaging in (EMA(), EMA(), SWA(1)):
        averaging.update(average, net, 1.0)
        made = average.net(net)
    kept = {k: v.clone() for k, v in average.tensors().items()}
    restatistic(made, X.split(16))
    with torch.no_grad():
        for tensor in made.state_dict().values():
            tensor.zero_()
    assert same(bits(net), before)
    assert net.training == state
    assert all(p.grad is None for p in net.parameters())
    assert same(average.tensors(), kept)
    trained(net, 0)
    assert same(average.tensors(), kept)
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_net_is_one_like_the_student_in_eval_mode():
    net = student(mean=(0.5,), std=(0.2,)).train()
    net.head_ = nn.Linear(2, 2)
    net.head_.weight.requires_grad_(False)
    average = run(EMA(0.5), net, steps=5)
    made = average.net(net)
    assert type(made) is type(net)
    assert made.built_as == net.built_as
    assert not any(m.training for m in made.modules())
    assert net.training
    assert [p.requires_grad for p in made.parameters()] == [p.requires_grad for p in net.parameters()]
    assert made.normalise.mean.item() == 0.5
    for (name, ours), theirs in zip(made.named_buffers(), net.buffers(), strict=True):
        assert torch.equal(ours, theirs), name  # copied, integers and all, not averaged
    assert not alike(made, net)


def test_weights_that_two_modules_share_are_averaged_once_and_stay_shared():
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[1].weight = net[0].weight
    average = Average.of(net)
    for value in (0.0, 1.0):
        nn.init.constant_(net[0].weight, value)
        EMA(0.75, warmup=False).update(average, net, 1.0)
    made = average.net(net)
    assert list(average.weights) == ["0.weight"]
    assert made[1].weight is made[0].weight
    assert torch.equal(made[1].weight, torch.full((4, 4), 0.25))


def test_short_floats_are_averaged_in_long_ones():
    net = nn.Linear(1, 1, bias=False).bfloat16()
    average = Average.of(net)
    for k in range(200):
        net.weight.data.fill_(1.0 if k == 0 else 2.0)
        EMA(0.999, warmup=False).update(average, net, 1.0)
    assert average.weights["weight"].dtype == torch.float32
    assert float(average.weights["weight"]) == pytest.approx(2 - 0.999**199, rel=1e-5)
    assert average.net(net).weight.dtype == torch.bfloat16
    assert Average.of(net.double()).weights["weight"].dtype == torch.float64


@pytest.mark.parametrize("batches", [X.split(16), X.split(48), X.split(20)])
def test_statistics_are_torchs_bit_for_bit(batches):
    net = run(EMA(0.5), student(), steps=5).net(student())
    theirs = copy.deepcopy(net)
    update_bn(batches, theirs)
    restatistic(net, iter(batches))
    assert same(bits(net), bits(theirs))
    assert all(int(m.num_batches_tracked) == len(batches) for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    assert not any(m.training for m in net.modules())
    assert all(m.momentum == 0.1 for m in net.modules() if isinstance(m, nn.BatchNorm2d))


def test_an_averages_own_statistics_are_not_its_students():
    net = student()
    average = run(EMA(0.9), net)
    made = average.net(net)
    last = made.layers[3][1]
    before = last.running_mean.clone()
    restatistic(made, [X])
    with torch.no_grad():
        inner = nn.Sequential(made.normalise, made.layers[:3], made.layers[3][0])(X)
    truth = inner.mean((0, 2, 3))
    assert (last.running_mean - truth).norm() < 0.05 * (before - truth).norm()


class Dropping(nn.Module):
    """Dropout before batch norm, a batch norm that keeps no statistics, and another buffer."""

    def __init__(self):
        super().__init__()
        self.drop, self.norm = nn.Dropout(0.5), nn.BatchNorm2d(1, momentum=0.3)
        self.free = nn.BatchNorm2d(1, track_running_stats=False)
        self.register_buffer("seen", torch.tensor(7))

    def forward(self, x):
        return self.free(self.norm(self.drop(x))).mean((2, 3))


def test_nothing_but_batch_norm_is_in_train_mode_and_all_is_put_back():
    net = Dropping().eval()
    net.drop.train()
    generator = torch.get_rng_state()
    restatistic(net, [X])
    assert torch.equal(torch.get_rng_state(), generator)
    assert [m.training for m in net.modules()] == [False, True, False, False]
    assert net.norm.momentum == 0.3
    assert int(net.seen) == 7
    torch.testing.assert_close(net.norm.running_mean, X.mean().reshape(1))
    torch.testing.assert_close(net.norm.running_var, X.var().reshape(1))


def test_what_is_not_finite_does_not_survive():
    net = student()
    theirs = copy.deepcopy(net)
    net.layers[0][1].running_mean.fill_(float("nan"))
    net.layers[1][1].running_var.fill_(float("inf"))
    restatistic(net, X.split(16))
    update_bn(X.split(16), theirs)
    assert same(bits(net), bits(theirs))


@pytest.mark.parametrize("batches", [[], [X, X[:, :, :2, :2].expand(-1, 3, -1, -1)]])
def test_after_an_error_the_old_statistics_stand(batches):
    net = trained(student(), 0).eval()
    before = bits(net)
    with pytest.raises((ConfigError, RuntimeError), match="expected"):
        restatistic(net, batches)
    assert same(bits(net), before)
    assert not any(m.training for m in net.modules())
    assert all(m.momentum == 0.1 for m in net.modules() if isinstance(m, nn.BatchNorm2d))


def test_a_net_without_batch_norm_is_left_alone():
    def never():
        raise AssertionError("read")
        yield

    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)).train()
    before = bits(net)
    restatistic(net, never())
    assert same(bits(net), before)
    assert net.training


def test_a_methods_own_passes_give_the_statistics_of_what_it_feeds():
    """RSLAD feeds attacked and clean images: the mean over both, from an attack on a net that works."""
    net, teacher = trained(student(), 0, steps=30).eval(), student(seed=1).eval().requires_grad_(False)
    method = ardor.methods.RSLAD(attack=ardor.attacks.PGD(ardor.Linf(0.1), steps=2))
    net.zero_grad(set_to_none=True)
    fed = []
    net.layers[0][0].register_forward_hook(lambda m, inputs, _: fed.append(inputs[0].detach().clone()))

    def look(batch):
        x, y, index = batch
        method.terms(net, teacher, x, y, epoch=1, noise=Noise(0, index, "method", 1))

    before = bits(net)
    restatistic(net, [(X[:24], Y[:24], torch.arange(24))], look)
    trained_on = fed[-2:]
    assert torch.equal(trained_on[1], X[:24])
    assert 0 < (trained_on[0] - X[:24]).abs().max() <= 0.1 + 1e-6
    theirs = copy.deepcopy(net)
    theirs.layers[0][0]._forward_hooks.clear()
    update_bn(trained_on, theirs)
    assert same(bits(net), bits(theirs))
    assert all(p.grad is None for p in net.parameters())
    assert all(int(m.num_batches_tracked) == 2 for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(torch.equal(before[k], bits(net)[k]) for k, _ in net.named_parameters())


def test_until_the_first_pass_an_attack_meets_the_old_statistics():
    net = trained(student(), 0, steps=5).eval()
    wanted, met = net(X), []
    restatistic(net, [X], lambda x: (met.append(copy.deepcopy(net).eval()(x)), net(x)))
    assert torch.equal(met[0], wanted)


@pytest.mark.parametrize("decay", [1, 1.0, 1.5, -0.1, float("nan"), "0.9", None])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(ConfigError, match=r"^expected averaging\.decay as .*, got .*: pass decay= [^.]*$"):
        EMA(decay)


@pytest.mark.parametrize("value", [0, -1, 0.5, float("nan"), float("inf"), "3", None])
def test_epochs_that_are_none_are_refused(value):
    for name in ("start", "every"):
        with pytest.raises(ConfigError, match=rf"^expected averaging\.{name} as .*, got .*: pass {name}= "):
            SWA(**{name: value})
    with pytest.raises(ConfigError, match="averaging.warmup"):
        EMA(warmup="no")


def test_an_average_that_never_begins_is_refused():
    for averaging, epochs in ((EMA(), 1), (SWA(), 225), (SWA(30), 30), (SWA(1), 1)):
        require_reached(averaging, epochs)
    for averaging, epochs, better in ((SWA(), 40, 30), (SWA(), 224, 168), (SWA(2), 1, 1)):
        with pytest.raises(ConfigError, match=f"got {averaging.start}: pass start={better}$"):
            require_reached(averaging, epochs)


def test_values_are_plain():
    assert repr(EMA()) == "EMA(decay=0.999, warmup=True, start=0.0)"
    assert repr(SWA()) == "SWA(start=225, every=1)"
    assert ardor.storage.config.describe(EMA(0.995)) == {"name": "EMA", "decay": 0.995, "warmup": True, "start": 0.0}
