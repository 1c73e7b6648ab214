"""What the device reaches through PyTorch: a large copy and a large matrix product."""

import torch

from timing import report


def copy():
    source = torch.randint(0, 255, (1 << 30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def product(size):
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.matmul(a, b, out=out)


if __name__ == "__main__":
    report("floor/copy", "torch", copy, bytes=2 << 30)
    report("floor/matmul", "torch", lambda: product(8192), flops=2 * 8192**3)
