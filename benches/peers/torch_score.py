"""score: RMSNorm and the predictor in PyTorch, eager and compiled."""

import torch
import torch.nn.functional as F

from timing import report

TOKENS, HIDDEN, WIDTH = 16384, 4096, 1024


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


if __name__ == "__main__":
    case = f"score/[{TOKENS}, {HIDDEN}] bf16 to {WIDTH} to 1"
    flops = 2 * TOKENS * WIDTH * (HIDDEN + 1)
    report(case, "torch, eager", prepare(lambda function: function), flops=flops)
    report(case, "torch, compiled", prepare(torch.compile), flops=flops)
