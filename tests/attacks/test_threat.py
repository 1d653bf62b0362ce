import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ardor.attacks import CW, FGSM, PGD
from ardor.attacks.threat import L2, Linf
from ardor.errors import ThreatError
from ardor.noise import Noise
from ardor.types import Threat

SHAPE = (3, 4, 4)
radii = st.sampled_from([1e-4, 2 / 255, 8 / 255, 0.3, 1.0])
dtypes = st.sampled_from([torch.float32, torch.float64])
seeds = st.integers(0, 10_000)


def images(seed, dtype, spread=3.0):
    """Images with many exact 0 and 1, and points around them, far outside of box and ball."""
    n = Noise(seed, torch.arange(5), "threat")
    x = (3 * n.uniform(SHAPE, dtype) - 1).clamp(0, 1)
    return x, x + spread * n.uniform((1, 1, 1), dtype) * n.normal(SHAPE, dtype)


@given(radii, dtypes, seeds)
def test_linf_projection_is_the_clip_onto_both_intervals(eps, dtype, seed):
    x, z = images(seed, dtype)
    p = Linf(eps).project(z, x)
    expected = np.clip(z.numpy(), np.maximum(x.numpy() - eps, 0), np.minimum(x.numpy() + eps, 1))
    np.testing.assert_allclose(p.numpy(), expected, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-15)
    assert p.min() >= 0
    assert p.max() <= 1
    assert torch.equal(Linf(eps).project(p, x), p)


@given(radii, dtypes, seeds)
def test_l2_projection_is_in_the_ball_and_in_the_box_and_keeps_what_is(eps, dtype, seed):
    x, z = images(seed, dtype)
    p = L2(eps).project(z, x)
    lengths = np.sqrt(((p - x).double().numpy() ** 2).sum((1, 2, 3)))
    assert (lengths <= eps + (1e-6 if dtype == torch.float32 else 1e-14)).all()
    assert p.min() >= 0
    assert p.max() <= 1
    inside = x + 0.99 * eps * (p - x) / (np.sqrt(48) * eps)
    np.testing.assert_allclose(L2(eps).project(inside, x).numpy(), inside.clamp(0, 1).numpy(), atol=1e-7)


@pytest.mark.parametrize("eps", [0.01, 0.2])
def test_l2_projection_is_analytic_where_the_box_is_far(eps):
    x = torch.full((3, *SHAPE), 0.5, dtype=torch.float64)
    v = Noise(1, torch.arange(3)).normal(SHAPE, torch.float64)
    length = v.flatten(1).norm(dim=1)[:, None, None, None]
    for scale in (0.5 * eps, eps, 3 * eps, 100.0):
        expected = x + min(scale, eps) * v / length
        got = L2(eps).project(x + scale * v / length, x)
        assert torch.allclose(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.1)])
def test_everything_returns_a_fresh_tensor_and_leaves_its_arguments(threat):
    x, z = images(0, torch.float64)
    before = x.clone(), z.clone()
    n = Noise(0, torch.arange(5))
    results = [threat.start(x, kind, n) for kind in ("uniform", "unclipped", "gaussian", "none")]
    results += [threat.ascend(x, z, 0.1), threat.project(z, x), threat.project(x, x)]
    for r in results:
        assert r.data_ptr() not in (x.data_ptr(), z.data_ptr())
        assert r.dtype == x.dtype
        assert r.shape == x.shape
    assert torch.equal(x, before[0])
    assert torch.equal(z, before[1])
    assert isinstance(threat, Threat)


def test_ascent_is_the_steepest_in_each_norm():
    x = torch.full((2, *SHAPE), 0.5, dtype=torch.float64)
    g = Noise(0, torch.arange(2)).normal(SHAPE, torch.float64)
    g[0, 0] = 0
    assert torch.equal(Linf().ascend(x, g, 0.1), x + 0.1 * g.sign())
    assert torch.equal(Linf().ascend(x, g, 0.1)[0, 0], x[0, 0])
    step = L2().ascend(x, g, 0.1) - x
    for i in range(2):
        assert float(step[i].norm()) == pytest.approx(0.1)
        assert float((step[i] * g[i]).sum()) == pytest.approx(0.1 * float(g[i].norm()))
    # no gradient, no step, and no NaN
    assert torch.equal(L2().ascend(x, torch.zeros_like(x), 0.1), x)


@pytest.mark.parametrize("threat", [Linf(0.1), Linf(1.0), L2(0.5)])
@pytest.mark.parametrize("kind", ["uniform", "unclipped"])
def test_starts_are_in_the_ball(threat, kind):
    x, _ = images(3, torch.float64)
    s = threat.start(x, kind, Noise(0, torch.arange(5)))
    delta = (s - x).flatten(1)
    far = delta.abs().amax(1) if isinstance(threat, Linf) else delta.norm(dim=1)
    assert (far <= threat.eps + 1e-12).all()
    assert (delta != 0).double().mean() > 0.3
    outside = bool((s < 0).any() or (s > 1).any())
    assert outside == (kind == "unclipped")


def test_uniform_start_fills_the_linf_ball_evenly():
    x = torch.full((400, *SHAPE), 0.5, dtype=torch.float64)
    u = ((Linf(0.1).start(x, "uniform", Noise(0, torch.arange(400))) - x) / 0.1).flatten()
    assert abs(u.mean()) < 5 / math.sqrt(3 * len(u))
    assert abs((u**2).mean() - 1 / 3) < 5 * math.sqrt((1 / 5 - 1 / 9) / len(u))
    assert u.min() < -0.99
    assert u.max() > 0.99


def test_uniform_start_fills_the_l2_ball_evenly():
    x = torch.full((2000, 1, 1, 3), 0.5, dtype=torch.float64)
    delta = (L2(0.2).start(x, "uniform", Noise(0, torch.arange(2000))) - x).flatten(1) / 0.2
    # in a ball of dimension n, length ** n is uniform and directions have no favourite
    u = np.sort((delta.norm(dim=1) ** 3).numpy())
    assert np.abs(u - (np.arange(2000) + 0.5) / 2000).max() < 1.95 / math.sqrt(2000)  # Kolmogorov and Smirnov, 0.1 %
    assert (delta.mean(0).abs() < 5 * math.sqrt(0.2 / 2000)).all()


@pytest.mark.parametrize("threat", [Linf(), L2()])
def test_gaussian_start_is_a_thousandth_and_not_clipped(threat):
    x, _ = images(3, torch.float64)
    delta = threat.start(x, "gaussian", Noise(7, torch.arange(5))) - x
    expected = 0.001 * Noise(7, torch.arange(5)).normal(SHAPE, torch.float64)
    assert torch.allclose(delta, expected, rtol=0, atol=1e-15)
    assert (x + delta).min() < 0
    assert (x + delta).max() > 1


@pytest.mark.parametrize("threat", [Linf(), L2()])
def test_no_start_is_x_and_another_word_is_refused(threat):
    x, _ = images(3, torch.float64)
    assert torch.equal(threat.start(x, "none", Noise(0, torch.arange(5))), x)
    with pytest.raises(ThreatError, match="'zero'"):
        threat.start(x, "zero", Noise(0, torch.arange(5)))


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.1)])
def test_distance_is_measured_in_the_norm(threat):
    x, z = images(1, torch.float64)
    d = (z - x).numpy().reshape(5, -1)
    expected = np.abs(d).max(1) if isinstance(threat, Linf) else np.sqrt((d**2).sum(1))
    np.testing.assert_allclose(threat.distance(z, x).numpy(), expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("norm", "eps", "hint"),
    [
        (Linf, 0, "8/255"),
        (Linf, -0.1, "8/255"),
        (Linf, 8, "8/255"),
        (Linf, 1.01, "0-255"),
        (Linf, float("nan"), "8/255"),
        (Linf, float("inf"), "0-255"),
        (L2, 0, "8/255"),
        (L2, -1, "8/255"),
        (L2, 128, "128/255"),
        (L2, 36, "36/255"),
        (L2, float("nan"), "8/255"),
        (L2, float("inf"), "0-255"),
    ],
)
def test_a_radius_out_of_range_is_refused(norm, eps, hint):
    with pytest.raises(ThreatError, match=hint):
        norm(eps)


def test_radii_in_range_are_accepted():
    assert [Linf(e).eps for e in (1e-6, 8 / 255, 0.3, 1)] == [1e-6, 8 / 255, 0.3, 1]
    assert [L2(e).eps for e in (0.5, 128 / 255, 3.0, 10)] == [0.5, 128 / 255, 3.0, 10]
    assert Linf() == Linf(8 / 255)
    assert L2() == L2(128 / 255)


@pytest.mark.parametrize("make", [PGD, CW])
def test_steps_out_of_range_are_refused(make):
    for steps in (0, -1):
        with pytest.raises(ThreatError, match="expected steps of at least 1"):
            make(steps=steps)
    for step in (0, -0.01, float("nan")):
        with pytest.raises(ThreatError, match="positive step"):
            make(step=step)


def test_values_are_frozen():
    for thing, name in ((Linf(), "eps"), (L2(), "eps"), (PGD(), "steps"), (FGSM(), "threat"), (CW(), "kappa")):
        with pytest.raises(AttributeError):
            setattr(thing, name, 1)


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.1)], ids=repr)
def test_a_surface_start_is_at_distance_eps(threat):
    x = torch.full((5, 1, 8, 8), 0.5, dtype=torch.float64)
    start = threat.start(x, "surface", Noise(0, torch.arange(5), "t"))
    assert torch.allclose(threat.distance(start, x), torch.full((5,), 0.1, dtype=torch.float64))
