"""select: torch.topk and a sort of its indices."""

import torch

from timing import captured, report

CASES = [(8, 16384, 5734), (64, 131072, 2048)]


def kept(scores, keep):
    return torch.topk(scores, keep, dim=-1, sorted=False).indices.sort(dim=-1).values


def check(indices, scores, keep):
    """Ascending, and no score that was dropped is above one that was kept."""
    assert indices.shape == (scores.shape[0], keep)
    assert (indices.diff(dim=-1) > 0).all()
    dropped = scores.scatter(-1, indices, float("-inf")).amax(dim=-1)
    assert (scores.gather(-1, indices).amin(dim=-1) >= dropped).all()


def prepare(rows, length, keep, change):
    scores = torch.randn(rows, length, device="cuda")
    check(kept(scores, keep), scores, keep)
    return change(lambda: kept(scores, keep))


if __name__ == "__main__":
    # Graphs last: a capture that fails may take the rest along.
    for who, change in [("torch, eager", lambda work: work), ("torch, graph", captured)]:
        for rows, length, keep in CASES:
            report(f"select/{rows} x {length} keep {keep}", who,
                   lambda: prepare(rows, length, keep, change), bytes=4 * rows * (length + keep))
