"""Differences between scorers over the same items, which tell apart what means of heavy tails do not."""

import json
import random

RESAMPLES = 4000


def losses(path):
    """The KL of every item in a results.jsonl, by what was run and then by item."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        record = json.loads(line)
        key, kl = record["key"], record["outcome"]["kl"]
        if kl is not None and key["scorer"] != "dense":
            ran = (key["task"], key["length"], key["question"], key["schedule"], key["scorer"])
            found.setdefault(ran, {})[key["depth"], key["index"]] = kl
    return found


def lines(losses):
    """The losses as text, a line for every run: what was run, then its items' in the order of the items."""
    name = lambda part: "" if part is None else str(part)
    lines = ["task\tlength\tquestion\tschedule\tscorer\tKL of every item"]
    for ran, items in losses.items():
        in_order = [f"{items[item]:.4f}" for item in sorted(items, key=lambda item: (item[0] or 0, item[1]))]
        lines.append("\t".join([*map(name, ran), " ".join(in_order)]))
    return "\n".join(lines) + "\n"


def add(rows, losses, reference):
    """Gives rows their `kl_above`: how much more than `reference(row)` loses at the same schedule they
    lose, over the items that both have. Rows without such items get None."""
    for row in rows:
        ran = (row["task"], row["length"], row["question"], row["schedule"])
        scorer = reference(row)
        own, other = losses.get((*ran, row["scorer"]), {}), losses.get((*ran, scorer), {})
        shared = [own[item] - other[item] for item in own.keys() & other.keys()]
        row["kl_above"] = None
        if row["scorer"] != scorer and len(shared) > 1:
            row["kl_above"] = {"scorer": scorer, **bootstrap(shared)}


def bootstrap(values):
    """The mean with its 95% interval, the same one whenever the values are the same."""
    values, generator = sorted(values), random.Random(0)
    mean = lambda values: sum(values) / len(values)
    means = sorted(mean(generator.choices(values, k=len(values))) for _ in range(RESAMPLES))
    tail = RESAMPLES // 40
    return {"mean": mean(values), "low": means[tail], "high": means[-1 - tail], "count": len(values)}
