"""A journal of a few batches."""

import torch

from ardor.evaluation.journal import Batch, BatchVerdict, Journal

IDENTITY = {"model": {"hash": "a"}, "seed": 0}


def batches(count=4, size=3):
    return [
        Batch(n, torch.arange(size * n, size * n + size), list(range(size * n, size * n + size))) for n in range(count)
    ]


def entry_of(stage, batch, letters=None):
    return BatchVerdict(stage, batch.number, batch.index, letters or "rbr"[: len(batch.index)], 3, 1, 0.5)


def settle(folder, stage="apgd/0", work=None, identity=IDENTITY, **kwargs):
    """What a whole stage says, and which batches were worked on here."""
    done = []

    def plain(batch):
        done.append(batch.number)
        return entry_of(stage, batch), None

    with Journal.open(folder, identity) as book:
        settled = sorted(book.complete(stage, batches(**kwargs), work or plain), key=lambda row: row[0].number)
    return [(entry, fresh) for _, entry, fresh in settled], done
