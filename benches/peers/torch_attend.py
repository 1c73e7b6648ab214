"""attend: scaled_dot_product_attention with a backend forced, never the default; for positions among
dropped keys with a mask, for lists with a gather. FlashInfer and FlashAttention 3 read lists as
pages of one token, where they are installed."""

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from timing import captured, report

HEADS, KV_HEADS, DIM = 32, 8, 128
GROUP = HEADS // KV_HEADS
LENGTHS = [4096, 8192, 16384, 32768]
BATCH, LENGTH, KEEP = 64, 131072, 2048
BACKENDS = [("cuDNN", SDPBackend.CUDNN_ATTENTION), ("flash", SDPBackend.FLASH_ATTENTION)]
MODEL = f"{HEADS}/{KV_HEADS} x {DIM} bf16"


def random(*shape):
    return torch.randn(*shape, dtype=torch.bfloat16, device="cuda")


def attention(backend, *tensors, **options):
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(*tensors, **options)


def expanded(x):
    return x.repeat_interleave(GROUP, dim=1)


def check(actual, q, k, v, seen):
    """Some rows [1, heads, rows, dim] against f32; `seen` is how many keys each sees."""
    for row, count in enumerate(seen):
        weights = q[:, :, row, None].float() @ expanded(k)[:, :, :count].float().mT * DIM**-0.5
        exact = (weights.softmax(-1) @ expanded(v)[:, :, :count].float()).squeeze(2)
        error = (actual[:, :, row] - exact).abs().max().item()
        assert error <= 0.02 * exact.abs().max().item(), f"off by {error}"


def causal(length, backend, grouped):
    q, k, v = (random(1, heads, length, DIM) for heads in (HEADS, KV_HEADS, KV_HEADS))
    keys, values = (k, v) if grouped else (expanded(k), expanded(v))
    work = lambda: attention(backend, q, keys, values, is_causal=True, enable_gqa=grouped)
    rows = [0, length // 2, length - 1]
    check(work()[:, :, rows], q[:, :, rows], k, v, [row + 1 for row in rows])
    return work


def among(length, keep, backend):
    """All queries over the kept keys at or before them: only a mask says so."""
    q, k, v = (random(1, heads, rows, DIM)
               for heads, rows in ((HEADS, length), (KV_HEADS, keep), (KV_HEADS, keep)))
    seen = (torch.arange(length, device="cuda") + 1) * keep // length
    # A row that sees no key is not defined here; the first sees one instead.
    seen = seen.clamp(min=1)
    mask = torch.arange(keep, device="cuda") < seen[:, None]
    keys, values = expanded(k), expanded(v)
    work = lambda: attention(backend, q, keys, values, attn_mask=mask)
    rows = [0, length // 2, length - 1]
    check(work()[:, :, rows], q[:, :, rows], k, v, seen[rows].tolist())
    return work


def caches(batch):
    """[batch, tokens, KV heads, dim], filled a sequence at a time."""
    store = torch.empty(2, batch, LENGTH, KV_HEADS, DIM, dtype=torch.bfloat16, device="cuda")
    for part in store.flatten(0, 1):
        part.normal_()
    return store.unbind()


def lists(batch):
    rows = [torch.randperm(LENGTH, device="cuda")[:KEEP].sort().values
            for _ in range(batch * KV_HEADS)]
    return torch.stack(rows).view(batch, KV_HEADS, KEEP)


def gathered(cache, kept):
    index = kept.unsqueeze(-1).expand(-1, -1, -1, DIM)
    return torch.gather(cache.transpose(1, 2), 2, index)


def check_step(actual, q, k, v, kept):
    k, v = gathered(k[:1], kept[:1]).float(), gathered(v[:1], kept[:1]).float()
    weights = (q[:1].float() @ k.mT * DIM**-0.5).softmax(-1)
    exact = weights @ v
    error = (actual.view(q.shape)[:1] - exact).abs().max().item()
    assert error <= 0.02 * exact.abs().max().item(), f"off by {error}"


def dense_step(batch, backend):
    """The queries of a group as rows of their KV head: no key is read twice."""
    (k, v), q = caches(batch), random(batch, KV_HEADS, GROUP, DIM)
    return lambda: attention(backend, q, k.transpose(1, 2), v.transpose(1, 2))


def gathered_step(batch, backend, change):
    (k, v), kept, q = caches(batch), lists(batch), random(batch, KV_HEADS, GROUP, DIM)
    work = lambda: attention(backend, q, gathered(k, kept), gathered(v, kept))
    check_step(work(), q, k, v, kept)
    return change(work)


def pages(kept):
    """A KV head of a sequence is a sequence of its own, and its tokens are pages."""
    batch = torch.arange(kept.shape[0], device="cuda")[:, None, None]
    head = torch.arange(KV_HEADS, device="cuda")[:, None]
    return ((batch * LENGTH + kept) * KV_HEADS + head).int().flatten(0, 1)


def flashinfer_step(batch):
    import flashinfer

    (k, v), kept, q = caches(batch), lists(batch), random(batch, KV_HEADS, GROUP, DIM)
    rows = batch * KV_HEADS
    pool = [x.view(-1, 1, 1, DIM) for x in (k, v)]
    workspace = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    step = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=True)
    starts = torch.arange(0, (rows + 1) * KEEP, KEEP, dtype=torch.int32, device="cuda")
    last = torch.ones(rows, dtype=torch.int32, device="cuda")
    step.plan(starts, pages(kept).flatten(), last, GROUP, 1, DIM, 1,
              q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16)
    work = lambda: step.run(q.view(rows, GROUP, DIM), tuple(pool))
    check_step(work(), q, k, v, kept)
    return work


def flash_attention_step(batch):
    from flash_attn_interface import flash_attn_with_kvcache

    (k, v), kept, q = caches(batch), lists(batch), random(batch, KV_HEADS, GROUP, DIM)
    rows = batch * KV_HEADS
    table, lens = pages(kept), torch.full((rows,), KEEP, dtype=torch.int32, device="cuda")
    pool = [x.view(-1, 1, 1, DIM) for x in (k, v)]
    work = lambda: flash_attn_with_kvcache(
        q.view(rows, 1, GROUP, DIM), *pool, cache_seqlens=lens, page_table=table)
    check_step(work(), q, k, v, kept)
    return work


def prefills():
    for length in LENGTHS:
        case = f"attend/causal {length}, {MODEL}"
        flops = 2 * length * (length + 1) * HEADS * DIM
        for name, backend in BACKENDS:
            for grouped, how in [(True, ""), (False, ", keys expanded")]:
                report(case, f"torch, {name}{how}", lambda: causal(length, backend, grouped),
                       flops=flops)
    masked = [("cuDNN", SDPBackend.CUDNN_ATTENTION), ("efficient", SDPBackend.EFFICIENT_ATTENTION)]
    for length in LENGTHS:
        keep = round(0.35 * length)
        case = f"attend/{length} queries over {keep} keys, {MODEL}"
        seen = sum((position + 1) * keep // length for position in range(length))
        for name, backend in masked:
            report(case, f"torch, mask, {name}", lambda: among(length, keep, backend),
                   flops=4 * seen * HEADS * DIM)


def steps():
    for batch in (BATCH, 1):
        case = f"attend/decode {batch} x {LENGTH}, {KEEP} per KV head, {MODEL}"
        size = batch * KV_HEADS * KEEP * (4 * DIM + 4)
        report(case, "FlashInfer, page size 1", lambda: flashinfer_step(batch), bytes=size)
        report(case, "FlashAttention 3, page size 1", lambda: flash_attention_step(batch),
               bytes=size)
        # Graphs last: a capture that fails may take the rest along.
        for how, change in [("eager", lambda work: work), ("graph", captured)]:
            for name, backend in BACKENDS:
                report(case, f"torch, gather + {name}, {how}",
                       lambda: gathered_step(batch, backend, change), bytes=size)


def dense_steps():
    case = f"attend/decode {BATCH} x {LENGTH}, every key, {MODEL}"
    for name, backend in BACKENDS:
        report(case, f"torch, {name}", lambda: dense_step(BATCH, backend),
               bytes=BATCH * KV_HEADS * LENGTH * 4 * DIM)


if __name__ == "__main__":
    with torch.inference_mode():
        prefills()
        dense_steps()
        steps()
