"""compact: index_select of hidden rows, and of keys and values into a second buffer; where order may
change, index_copy_ of the tokens that move."""

import torch

from timing import captured, report

TOKENS, KEEP, WIDTH = 16384, 5734, 4096
LAYERS, HEADS, DIM, PAGE = 32, 8, 128, 16


def survivors(tokens, keep):
    order = torch.randperm(tokens, generator=torch.Generator().manual_seed(3))
    return order[:keep].sort().values


def places(tokens, paged):
    """Where each token's row lies."""
    if not paged:
        return torch.arange(tokens)
    pages = torch.randperm(tokens // PAGE, generator=torch.Generator().manual_seed(4))
    return (pages[:, None] * PAGE + torch.arange(PAGE)).flatten()


def moves(kept, hole_fill):
    """From which token to which place: all survivors, or those that must fill holes."""
    if not hole_fill:
        return kept, torch.arange(len(kept))
    stays = torch.zeros(len(kept), dtype=torch.bool)
    stays[kept[kept < len(kept)]] = True
    return kept[kept >= len(kept)], (~stays).nonzero().flatten()


def hidden_rows(change):
    x = torch.randn(TOKENS, WIDTH, device="cuda").bfloat16()
    kept = survivors(TOKENS, KEEP).cuda()
    out = torch.empty(KEEP, WIDTH, dtype=x.dtype, device="cuda")
    return change(lambda: torch.index_select(x, 0, kept, out=out))


def caches(paged, hole_fill, change):
    place = places(TOKENS, paged)
    source, target = (place[tokens].cuda() for tokens in moves(survivors(TOKENS, KEEP), hole_fill))
    shape = (2 * LAYERS, TOKENS, HEADS * DIM)
    tensors = torch.randint(-999, 999, shape, dtype=torch.int16, device="cuda").view(torch.bfloat16)
    if hole_fill:
        return change(lambda: [t.index_copy_(0, target, t.index_select(0, source)) for t in tensors])
    second = torch.empty(2 * LAYERS, KEEP, HEADS * DIM, dtype=tensors.dtype, device="cuda")
    return change(lambda: [
        torch.index_select(t, 0, source, out=out) for t, out in zip(tensors, second)
    ])


def measure(who, change):
    case = f"compact/rows [{TOKENS} to {KEEP}, {WIDTH}] bf16"
    report(case, who, lambda: hidden_rows(change), bytes=4 * KEEP * WIDTH)
    for store, paged in [("contiguous", False), ("paged", True)]:
        for order, hole_fill in [("stable", False), ("hole-fill", True)]:
            moved = len(moves(survivors(TOKENS, KEEP), hole_fill)[0])
            case = (f"compact/kv {LAYERS} x {HEADS} x {DIM} bf16 {TOKENS} to {KEEP}, "
                    f"{store}, {order}")
            report(case, who, lambda: caches(paged, hole_fill, change),
                   bytes=2 * moved * LAYERS * 2 * HEADS * DIM * 2)


if __name__ == "__main__":
    # Graphs last: a capture that fails may take the rest along.
    measure("torch, eager", lambda work: work)
    measure("torch, graph", captured)
