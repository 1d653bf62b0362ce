"""FAB's projection, slowly."""

import torch

from ardor.attacks.threat import L2, Linf

NORMS = [Linf(0.1), L2(0.5)]


def slow_project(threat, x, w, c):
    """One row: the breakpoints in order, one at a time, until the plane is reached."""
    side = -1.0 if c > 0 else 1.0
    rate = [1.0 if isinstance(threat, Linf) else abs(float(v)) for v in w]
    room = [float(1 - p if side * v > 0 else p) for p, v in zip(x, w, strict=True)]
    reached, lam, live = 0.0, 0.0, sorted((i for i in range(len(w)) if w[i] != 0), key=lambda i: room[i] / rate[i])
    while live:
        slope = sum(abs(float(w[i])) * rate[i] for i in live)
        wall = room[live[0]] / rate[live[0]]
        if reached + slope * (wall - lam) >= abs(float(c)):
            lam += (abs(float(c)) - reached) / slope
            break
        reached, lam = reached + slope * (wall - lam), wall
        live.pop(0)
    signs = [side * float(torch.sign(v)) for v in w]
    return torch.tensor([s * min(lam * r, q) for s, r, q in zip(signs, rate, room, strict=True)], dtype=x.dtype)
