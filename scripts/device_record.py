"""One record out of what the steps of device-run measured, and its tables."""

import datetime

# The work, what it must reach, and the cases that show it.
KV = "compact/kv 32 x 8 x 128 bf16 16384 to 5734"
HEADS = "32/8 x 128 bf16"
BUDGETS = [
    ("score, [16384, 4096] bf16, 4096 -> 1024 -> 1",
     "80% of the measured matmul rate; 1.5x over eager torch",
     ["score/[16384, 4096] bf16 to 1024 to 1"]),
    ("select, 8 x 16384, keep 35%", "8 us; 10x over torch.topk with sorted indices",
     ["select/8 x 16384 keep 5734"]),
    ("select, 64 x 131072, keep 2048", "25 us; 7x over torch.topk with sorted indices",
     ["select/64 x 131072 keep 2048"]),
    ("compact, hidden rows 16384 -> 5734, 4096 bf16", "90% of device-copy bandwidth",
     ["compact/rows [16384 to 5734, 4096] bf16"]),
    ("compact, KV of 32 layers, 16384 -> 5734", "85% of device-copy bandwidth",
     [f"{KV}, {store}, {order}" for store in ["contiguous", "paged"]
      for order in ["stable", "hole-fill"]]),
    ("attend, causal prefill d128 bf16 GQA 32/8, 4k to 32k",
     "at least the best forced torch backend; 640 TF/s and more",
     [f"attend/causal {length}, {HEADS}" for length in [4096, 8192, 16384, 32768]]),
    ("attend, full queries over 35% of keys", "3x over masked SDPA",
     [f"attend/{length} queries over {keep} keys, {HEADS}"
      for length, keep in [(4096, 1434), (8192, 2867), (16384, 5734), (32768, 11469)]]),
    ("attend, decode 2048 of 131072 per KV head, batch 64",
     "75% of device-copy bandwidth; 2.5x over gather + SDPA",
     [f"attend/decode 64 x 131072, 2048 per KV head, {HEADS}"]),
    ("score + select + compact in one pruned prefill", "1.5% of its time at most", []),
    ("pruned prefill, 32-layer 4096-wide model, 4k to 128k",
     "97% of the speed-up that its operation count allows", []),
]


def merge(about, machine, steps, measured, clocks):
    """The record. `steps` tell how each step ended; `measured` are the lines that the programs
    printed, those with an error among them; `about` says what was built."""
    if "software gpu" in str(machine).lower():
        raise ValueError("what ran on the software GPU is no measurement of a device")
    floors = {}
    for line in measured:
        known = {"floor/copy": ("bytes", "copy_bytes_per_second"),
                 "floor/matmul": ("flops", "matmul_flops_per_second")}.get(line["case"])
        if known and "seconds" in line:
            amount, name = known
            # The best that anyone reached.
            floors[name] = max(floors.get(name, 0), line[amount] / line["seconds"][1])
    return {
        "date": datetime.date.today().isoformat(),
        **about,
        "command": "device-run",
        "machine": machine,
        "floors": floors,
        "device": [line | shares(line, floors) for line in measured],
        "clocks": clocks,
        "steps": steps,
    }


def shares(line, floors):
    """How much of the floors a measurement reaches: by bytes, by operations, or by both."""
    found = {}
    for amount, floor, name in [("bytes", "copy_bytes_per_second", "share_of_copy"),
                                ("flops", "matmul_flops_per_second", "share_of_matmul")]:
        if "seconds" in line and amount in line and floors.get(floor):
            found[name] = line[amount] / line["seconds"][1] / floors[floor]
    return found


def failed(document):
    """Steps that must pass and did not."""
    return [step["name"] for step in document["steps"]
            if step["required"] and step["status"] not in ("passed", "absent")]


def measurements(document):
    """Every measurement: who did what, and how long it took."""
    rows = []
    for line in document["device"]:
        if "seconds" not in line:
            rows.append([line["case"], line["who"], line.get("error", "failed").split("\n")[0],
                         "", "", ""])
            continue
        low, median, high = line["seconds"]
        rows.append([
            line["case"], line["who"], time(median), f"{time(low)} to {time(high)}",
            percent(line.get("share_of_copy")), percent(line.get("share_of_matmul")),
        ])
    return table(["case", "who", "median", "quartiles", "of copy", "of matmul"], rows)


def budgets(document):
    """The rows of the design, with what a record holds of them; without one, none is measured."""
    lines = document["device"] if document else []
    rows = []
    for work, target, cases in BUDGETS:
        found = []
        for case in cases:
            by = {line["who"]: line for line in lines
                  if line["case"] == case and "seconds" in line}
            if "salient" not in by:
                continue
            mine = by.pop("salient")
            says = [time(mine["seconds"][1])]
            share = "share_of_matmul" if "flops" in mine else "share_of_copy"
            if share in mine:
                says.append(f"{percent(mine[share])} of {share.removeprefix('share_of_')}")
            for who, line in by.items():
                if who.startswith("torch"):
                    says.append(f"{line['seconds'][1] / mine['seconds'][1]:.1f}x over {who}")
            name = case.removeprefix(KV).removeprefix("attend/").removesuffix(HEADS).strip(", ")
            found.append((f"{name}: " if len(cases) > 1 else "") + ", ".join(says))
        rows.append([work, target, "; ".join(found) or "not measured"])
    return table(["work", "must reach", "measured"], rows)


def steps(document):
    return table(["step", "ended", "after", "says"], [
        [step["name"], step["status"], f"{step['seconds']:.1f} s",
         telling(step.get("message", ""))[:150]] for step in document["steps"]
    ])


def telling(message):
    """The line that says most: what a panic says, else the last."""
    lines = message.strip().split("\n")
    for line, after in zip(lines, lines[1:]):
        if " panicked at " in line:
            return after
    return lines[-1]


def time(seconds):
    for unit, scale in [("s", 1), ("ms", 1e3), ("us", 1e6)]:
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def percent(share):
    return "" if share is None else f"{100 * share:.0f}%"


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    cell = lambda text: str(text).replace("|", "\\|")
    return "\n".join(lines + ["| " + " | ".join(map(cell, row)) + " |" for row in rows]) + "\n"
