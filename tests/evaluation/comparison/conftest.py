"""Reports that differ as the tests of comparison say."""

from ardor.evaluation.report import Report

CONFIG = {
    "method": {"name": "rslad", "alpha": "5/6"},
    "student": {"name": "small_cnn", "width": 4, "seed": 0},
    "teacher": {"name": "small_cnn", "weights": "t/best.safetensors"},
    "data": {"name": "digits", "seed": 0, "root": "data"},
    "recipe": {"epochs": 3, "seed": 0, "device": "cpu"},
    "fingerprint": {"ardor": "0.1.0", "student": "s0", "teacher": "t0", "marks": []},
}


def config(seed=0, method="rslad", **more):
    content = {key: dict(value) for key, value in CONFIG.items()}
    content["recipe"]["seed"] = content["student"]["seed"] = seed
    content["fingerprint"]["student"] = f"s{seed}"
    content["method"]["name"] = method
    for key, value in more.items():
        content[key] |= value
    return content


def report(letters, hash="", training=None, **more):
    """A report of two attacks: `letters` under the first, and what the second makes of them."""
    verdicts = letters if isinstance(letters, dict) else {"pgd": letters, "cw": letters}
    n = len(next(iter(verdicts.values())))
    data = {"name": "digits", "part": "test", "of": n, "class_names": ["cat", "dog"], "hash": "feed", "marks": []}
    given = {
        "model": {"name": "small_cnn", "hash": hash or str(verdicts)},
        "data": data,
        "suite": "paper",
        "threat": {"name": "Linf", "eps": "8/255"},
        "attacks": {"pgd": {"name": "PGD", "steps": 20, "step": "2/255"}, "cw": {"name": "CW", "steps": 20}},
        "index": list(range(n)),
        "labels": [i % 2 for i in range(n)],
        "verdicts": verdicts,
        "seed": 0,
        "batch": 4,
        "versions": {"ardor": "0.1.0", "torch": "2.13.0"},
        "training": config() if training is None else training,
    }
    return Report(**(given | more))


def letters(n, right, start=0):
    """`right` robust images of n, in a row from `start`."""
    return "".join("r" if start <= i < start + right else "b" for i in range(n))


def pairs_of(n, *counts):
    """Reports of A and B per seed, of n images each: (only A, only B, both)."""
    a, b = [], []
    for seed, (only_a, only_b, both) in enumerate(counts):
        rest = "b" * (n - only_a - only_b - both)
        a.append(report("r" * only_a + "b" * only_b + "r" * both + rest, f"a{seed}", config(seed)))
        b.append(report("b" * only_a + "r" * only_b + "r" * both + rest, f"b{seed}", config(seed, "sat")))
    return a, b
