"""Tests of paired."""

import json
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.dont_write_bytecode = True
import paired


def line(scorer, index, kl, schedule="sdtp", depth=None):
    key = {"task": "hotpotqa", "length": None, "question": "last", "schedule": schedule,
           "scorer": scorer, "depth": depth, "index": index}
    return json.dumps({"key": key, "outcome": {"kl": kl}})


def row(scorer, schedule="sdtp"):
    return {"task": "hotpotqa", "length": None, "question": "last", "schedule": schedule,
            "scorer": scorer}


class Paired(unittest.TestCase):
    def losses(self, *lines):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "results.jsonl"
            path.write_text("\n".join(lines))
            return paired.losses(path)

    def above(self, rows, *lines):
        paired.add(rows, self.losses(*lines), lambda row: "best")
        return [row["kl_above"] for row in rows]

    def test_differences_are_of_the_items_that_both_have(self):
        lines = [line("best", index, float(index)) for index in range(20)]
        lines += [line("other", index, index + 1.0) for index in range(10, 30)]
        other, best, late, none = self.above(
            [row("other"), row("best"), row("other", "late"), row("none")], *lines)
        self.assertEqual(other, {"scorer": "best", "mean": 1.0, "low": 1.0, "high": 1.0, "count": 10})
        self.assertEqual([best, late, none], [None] * 3)

    def test_items_differ_by_depth_too(self):
        lines = [line(scorer, 0, kl, depth=depth)
                 for scorer, kl in [("best", 0.0), ("other", 0.5)] for depth in (10.0, 90.0)]
        (other,) = self.above([row("other")], *lines)
        self.assertEqual((other["mean"], other["count"]), (0.5, 2))

    def test_the_dense_run_and_tasks_without_a_loss_are_left_out(self):
        self.assertEqual(self.losses(line("dense", 0, 0.0), line("other", 0, None)), {})
        self.assertEqual(paired.losses(pathlib.Path("/no/such/file")), {})

    def test_every_item_is_written_in_order(self):
        found = self.losses(line("a", 10, 0.5), line("a", 9, 0.25), line("b", 0, 1 / 3))
        _, *lines = paired.lines(found).splitlines()
        self.assertEqual(lines, ["hotpotqa\t\tlast\tsdtp\ta\t0.2500 0.5000",
                                 "hotpotqa\t\tlast\tsdtp\tb\t0.3333"])

    def test_an_interval_is_that_of_the_mean_and_repeats(self):
        values = [(-1) ** index * index / 100 + 0.2 for index in range(100)]
        first, again = paired.bootstrap(values), paired.bootstrap(values[::-1])
        self.assertEqual(first, again)
        # The mean is 0.195, and its standard deviation 0.057.
        self.assertAlmostEqual(first["mean"], 0.195)
        self.assertAlmostEqual(first["low"], 0.195 - 1.96 * 0.057, delta=0.01)
        self.assertAlmostEqual(first["high"], 0.195 + 1.96 * 0.057, delta=0.01)


if __name__ == "__main__":
    unittest.main()
