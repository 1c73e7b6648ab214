"""score: in PyTorch, eager and compiled, RMSNorm and the predictor; attention of the last queries as
SnapKV computes it, keys expanded to all query heads; column sums of all queries' attention, in blocks
of queries, for all of it at once is too large; expected attention and an indexer."""

import torch
import torch.nn.functional as F

from timing import report

TOKENS, HIDDEN, WIDTH = 16384, 4096, 1024
HEADS, KV_HEADS, DIM = 32, 8, 128
COLUMN_TOKENS, BLOCK = 8192, 512


def weights(hidden, width, dtype, device):
    generator = torch.Generator().manual_seed(1)
    normal = lambda *shape: torch.randn(*shape, generator=generator) / shape[-1] ** 0.5
    given = torch.ones(hidden), normal(width, hidden), normal(width), normal(1, width), normal(1)
    return [weight.to(dtype).to(device) for weight in given]


def predictor(x, gain, w1, b1, w2, b2):
    y = F.rms_norm(x, (x.shape[-1],), gain, 1e-5)
    return F.linear(F.gelu(F.linear(y, w1, b1)), w2, b2).squeeze(-1).float()


def check(actual, x, given):
    exact = predictor(x.double(), *(weight.double() for weight in given))
    error = (actual - exact).abs().max().item()
    assert error <= 0.05 * exact.abs().max().item(), f"off by {error}"


def prepare(change):
    def run():
        x = torch.randn(TOKENS, HIDDEN, dtype=torch.bfloat16, device="cuda")
        given = weights(HIDDEN, WIDTH, torch.bfloat16, "cuda")
        function = change(predictor)
        with torch.inference_mode():
            check(function(x, *given)[:64], x[:64], given)

        def work():
            with torch.inference_mode():
                return function(x, *given)

        return work
    return run


def attention(q, k, first):
    """Of queries `first` and those after it, [heads, queries, DIM], to keys [KV_HEADS, tokens, DIM]:
    the mean over heads of each KV head's group, summed over queries."""
    tokens = k.shape[1]
    k = k.repeat_interleave(q.shape[0] // k.shape[0], dim=0)
    logits = (q @ k.transpose(1, 2)) * DIM**-0.5
    place = torch.arange(tokens, device=q.device)
    seen = place <= (first + torch.arange(q.shape[1], device=q.device))[:, None]
    weights = logits.masked_fill(~seen, float("-inf")).softmax(-1, dtype=torch.float32)
    return weights.sum(1).view(KV_HEADS, -1, tokens).mean(1)


def window(q, k):
    return attention(q, k, k.shape[1] - q.shape[1]) / q.shape[1]


def columns(q, k):
    scores = torch.zeros(KV_HEADS, k.shape[1], device=q.device)
    for first in range(0, q.shape[1], BLOCK):
        end = first + BLOCK
        scores[:, :end] += attention(q[:, first:end], k[:, :end], first)
    return scores / q.shape[1]


def prepare_attention(function, queries, tokens, change):
    def run():
        q = torch.randn(HEADS, queries, DIM, dtype=torch.bfloat16, device="cuda")
        k = torch.randn(KV_HEADS, tokens, DIM, dtype=torch.bfloat16, device="cuda")
        changed = change(function)

        def work():
            with torch.inference_mode():
                return changed(q, k)

        total = work().sum().item()
        # Attention of every query adds up to 1.
        assert abs(total - KV_HEADS) < 0.01 * KV_HEADS, f"adds up to {total}"
        return work
    return run


def expected(k, v, mean, covariance):
    """Of keys and values [KV_HEADS, tokens, DIM] and statistics of HEADS queries, sinks left out."""
    k, v = k[:, 4:], v[:, 4:]
    spread = k.repeat_interleave(HEADS // KV_HEADS, dim=0).to(mean.dtype)
    logits = torch.einsum("htd,hd->ht", spread, mean) * DIM**-0.5
    logits += ((spread @ covariance) * spread).sum(-1) / DIM / 2
    attention = logits.softmax(-1).view(KV_HEADS, HEADS // KV_HEADS, -1).mean(1)
    return attention * v.to(mean.dtype).norm(dim=-1)


def prepare_expected(change):
    def run():
        tensor = lambda *shape: torch.randn(*shape, device="cuda")
        k, v = (tensor(KV_HEADS, TOKENS, DIM).bfloat16() for _ in range(2))
        root = tensor(HEADS, DIM, DIM)
        mean, covariance = tensor(HEADS, DIM), root @ root.transpose(1, 2) / DIM
        changed = change(expected)

        def work():
            with torch.inference_mode():
                return changed(k, v, mean, covariance)

        with torch.inference_mode():
            exact = expected(k, v, mean.double(), covariance.double())
        error = (work() - exact).abs().max().item()
        assert error <= 0.05 * exact.abs().max().item(), f"off by {error}"
        return work
    return run


INDEXER_HEADS = 64


def indexer(q, k, weights, scales):
    """Of queries [batch, queries, INDEXER_HEADS, DIM] and keys [batch, keys, DIM], causally."""
    dots = torch.einsum("bmhd,bnd->bmhn", q, k).relu()
    logits = torch.einsum("bmhn,bmh->bmn", dots.to(weights.dtype), weights) * scales[:, None]
    seen = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device)
    return logits.masked_fill(~seen.tril(k.shape[1] - q.shape[1]), float("-inf"))


def prepare_indexer(batch, queries, keys, change):
    """In blocks of queries, for all at once is too large."""
    def run():
        tensor = lambda *shape: torch.randn(*shape, device="cuda")
        q = tensor(batch, queries, INDEXER_HEADS, DIM).bfloat16()
        k, weights = tensor(batch, keys, DIM).bfloat16(), tensor(batch, queries, INDEXER_HEADS)
        scales, changed, block = tensor(batch, keys), change(indexer), min(queries, 256)

        def work():
            with torch.inference_mode():
                for first in range(0, queries, block):
                    end, seen = first + block, keys - queries + first + block
                    logits = changed(q[:, first:end], k[:, :seen], weights[:, first:end],
                                     scales[:, :seen])
                return logits

        with torch.inference_mode():
            exact = indexer(q[:, -1:].double(), k.double(), weights[:, -1:].double(), scales)
        error = (work()[:, -1:] - exact).abs().max().item()
        assert error <= 0.05 * exact.abs().max().item(), f"off by {error}"
        return work
    return run


if __name__ == "__main__":
    case = f"score/[{TOKENS}, {HIDDEN}] bf16 to {WIDTH} to 1"
    flops = 2 * TOKENS * WIDTH * (HIDDEN + 1)
    report(case, "torch, eager", prepare(lambda function: function), flops=flops)
    report(case, "torch, compiled", prepare(torch.compile), flops=flops)

    ways = [("torch, eager", lambda function: function), ("torch, compiled", torch.compile)]
    shape = f"{HEADS}/{KV_HEADS} x {DIM} bf16"
    for queries in [1, 64]:
        seen = queries * TOKENS - queries * (queries - 1) // 2
        for who, change in ways:
            report(f"score/window {queries} of {TOKENS}, {shape}", who,
                   prepare_attention(window, queries, TOKENS, change), flops=2 * seen * HEADS * DIM)
    for who, change in ways:
        seen = COLUMN_TOKENS * (COLUMN_TOKENS + 1) // 2
        report(f"score/columns {COLUMN_TOKENS}, {shape}", who,
               prepare_attention(columns, COLUMN_TOKENS, COLUMN_TOKENS, change),
               flops=2 * seen * HEADS * DIM)
    for who, change in ways:
        report(f"score/expected {TOKENS}, {shape}", who,
               prepare_expected(change), flops=2 * TOKENS * HEADS * DIM * DIM)
        for batch, queries, keys in [(16, 1, 32768), (1, 8192, 8192)]:
            pairs = batch * (queries * (keys - queries) + queries * (queries + 1) // 2)
            report(f"score/indexer {queries} of {batch} x {keys}, {INDEXER_HEADS} x {DIM} bf16", who,
                   prepare_indexer(batch, queries, keys, change),
                   flops=2 * pairs * INDEXER_HEADS * DIM)
