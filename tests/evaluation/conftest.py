"""A journal of a few batches."""

import torch

from ardor.evaluation.journal import Batch, BatchVerdict, Journal

IDENTITY = {"model": {"hash": "a"}, "seed": 0}


def batches(count=4, size=3):
    rows = torch.arange(size * count).split(size)
    return [Batch(number, chunk, chunk.tolist()) for number, chunk in enumerate(rows)]


def entry_of(stage, batch, letters=None):
    return BatchVerdict(stage, batch.number, batch.index, letters or "rbr"[: len(batch.index)], 3, 1, 0.5)


def run_stage(folder, stage="apgd/0", work=None, identity=IDENTITY, **kwargs):
    """The verdicts of a stage, and the batches that were computed here."""
    done = []

    def plain(batch):
        done.append(batch.number)
        return entry_of(stage, batch), None

    with Journal.open(folder, identity) as book:
        rows = sorted(book.complete(stage, batches(**kwargs), work or plain), key=lambda row: row[0].number)
    return [(entry, fresh) for _, entry, fresh in rows], done
