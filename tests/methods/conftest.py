"""Features, and the statistics of the variance method by hand."""

import numpy as np
import torch

from ardor.noise import Noise

B = 12


def features(purpose, d, rows=B):
    return Noise(0, torch.arange(rows), purpose).normal((d,), torch.float64) + 3


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def cov_term(h_s, h_t, h_clean, w=None):
    """The loss on covariances in numpy, from its definition."""
    c_s, c_t, c_clean = (np.cov(h, rowvar=False) for h in (h_s, h_t, h_clean))
    if w is not None:
        c_s = w @ c_s @ w.T
    s = np.trace(c_clean) / len(c_clean)
    return ((c_s / s - c_t / s) ** 2).sum() / ((c_clean / s) ** 2).sum()


def gram_term(z, target):
    p, q = softmax(z), softmax(target)
    total = 0.0
    for i in range(len(p)):
        for j in range(len(p)):
            total += ((p[i] * p[j]).sum() - (q[i] * q[j]).sum()) ** 2
    return total / len(p) ** 2
