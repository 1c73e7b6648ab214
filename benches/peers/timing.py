"""Times work of PyTorch as benches/device times the kernels: by CUDA events, 256 MiB read between two
runs so that the L2 cache holds none of the case and nothing that must be written. Prints a line of
JSON for every measurement, and one with the error for every one that failed."""

import json

import torch

RUNS, WARM_UP = 60, 5


def quartiles(seconds):
    ordered = sorted(seconds)
    return [ordered[quarter * len(ordered) // 4] for quarter in (1, 2, 3)]


def captured(work):
    """The work as a graph: nothing of Python or of the launches is in the time of a replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def measure(work):
    flush = torch.ones(64 << 20, dtype=torch.float32, device="cuda")
    pairs = []
    for _ in range(WARM_UP + RUNS):
        flush.sum()
        pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        pair[0].record()
        work()
        pair[1].record()
        pairs.append(pair)
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in pairs[WARM_UP:]]


def report(case, who, prepare, **known):
    """Measures what `prepare` returns; it may check first, and what it raises is reported."""
    line = {"case": case, "who": who}
    try:
        line |= {"seconds": quartiles(measure(prepare())), "runs": RUNS} | known
    except ImportError as error:
        line["error"] = f"absent: {error}"
    except Exception as error:  # whatever a compiler or an allocator may raise
        line["error"] = f"{type(error).__name__}: {error}"[:2000]
    print(json.dumps(line), flush=True)
