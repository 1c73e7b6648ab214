"""score: in PyTorch, eager and compiled, RMSNorm and the predictor; attention of the last queries as
SnapKV computes it, keys expanded to all query heads; and column sums of all queries' attention, in
blocks of queries, for all of it at once is too large."""

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
