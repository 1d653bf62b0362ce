"""FAB's projection against solvers, the official code and a slow expression."""

import pytest
import torch

from ardor.attacks.fab import project
from ardor.attacks.threat import Linf
from tests.attacks.conftest import NORMS, slow_project

# The projection


def planes(rows, n, seed=0, dtype=torch.float64):
    """Points with values on the walls, gradients with zeros; planes near, far, through, out of reach, at the vertex."""
    draw = torch.Generator().manual_seed(seed)
    x = (3 * torch.rand(rows, n, generator=draw, dtype=torch.float64) - 1).clamp(0, 1)
    w = torch.randn(rows, n, generator=draw, dtype=torch.float64)
    w[torch.rand(rows, n, generator=draw) < 0.3] = 0
    share = torch.tensor([0.02, 0.3, 0.7, 0.95, 2.0, 0.0, 1.0, 1.0 - 1e-6])[torch.arange(rows) % 8]
    side = torch.where(torch.rand(rows, generator=draw) < 0.5, -1.0, 1.0).double()
    wall = (w * side[:, None] < 0).double()
    return x.to(dtype), w.to(dtype), (side * share * (w * (wall - x)).sum(1).abs()).to(dtype)


@pytest.mark.parametrize("threat", NORMS, ids=repr)
def test_the_projection_is_the_slow_one(threat):
    x, w, c = planes(24, 12)
    d = project(threat, x, w, c)
    for i in range(len(x)):
        torch.testing.assert_close(d[i], slow_project(threat, x[i], w[i], c[i]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 50, 784])
@pytest.mark.parametrize("threat", NORMS, ids=repr)
def test_the_projection_is_the_official_codes(threat, n):
    official = pytest.importorskip("pyautoattack.fab_projections")
    x, w, c = planes(64, n, seed=2)
    kind = torch.arange(64) % 8
    # without a gradient theirs divides zero by zero, and exactly at the vertex it may leave the box
    some = (w.abs().sum(1) > 0) & (kind != 6)
    theirs = official.projection_linf if isinstance(threat, Linf) else official.projection_l2
    expected = theirs(x[some], w[some], (w * x).sum(1)[some] - c[some])
    apart = (project(threat, x, w, c)[some] - expected).abs().amax(1)
    assert float(apart[kind[some] < 6].max()) < 1e-9
    assert float(apart.max()) < 1e-5  # almost at the vertex their running sums lose digits


@pytest.mark.parametrize("n", [7, 784, 3072])
@pytest.mark.parametrize("threat", NORMS, ids=repr)
def test_a_row_does_not_see_its_batch_mates(threat, n):
    x, w, c = planes(40, n, seed=3, dtype=torch.float32)
    d = project(threat, x, w, c)
    for i in range(40):  # alone it is done after as few passes as it needs
        one = slice(i, i + 1)
        assert torch.equal(project(threat, x[one], w[one], c[one])[0], d[i])
    back = torch.arange(39, -1, -3)
    assert torch.equal(project(threat, x[back], w[back], c[back]), d[back])


@pytest.mark.parametrize("threat", NORMS, ids=repr)
def test_it_ends_where_rounding_decides_whether_the_vertex_is_reached(threat):
    for seed in range(10):
        x, w, c = planes(64, 20, seed, torch.float32)
        d = project(threat, x, w, c)
        near = torch.arange(64) % 8 != 4  # within reach, but for rounding
        assert float(((w * d).sum(1) + c)[near].abs().max()) < 1e-5
        assert float((x + d - (x + d).clamp(0, 1)).abs().max()) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threat", NORMS, ids=repr)
def test_without_a_gradient_it_stays(threat, dtype):
    x = torch.tensor([[0.0, 1.0, 0.5], [0.2, 0.3, 0.4]], dtype=dtype)
    for c in (0.0, 1.0, -1.0, 1e30):
        d = project(threat, x, torch.zeros_like(x), torch.tensor([c, -c], dtype=dtype))
        assert torch.equal(d, torch.zeros_like(x))
    on_it = project(threat, x, torch.ones_like(x), torch.zeros(2, dtype=dtype))
    assert torch.equal(on_it, torch.zeros_like(x))
