"""Tests of quality, on rows that are made up."""

import importlib.machinery
import importlib.util
import json
import pathlib
import re
import sys
import tempfile
import unittest
from unittest import mock

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("quality", str(HERE / "quality"))
quality = importlib.util.module_from_spec(importlib.util.spec_from_loader("quality", loader))
loader.exec_module(quality)


def estimate(mean):
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01, "count": 50}


def row(scorer, schedule="sdtp", task="hotpotqa", question="last", length=None, **figures):
    measures = dict.fromkeys(quality.MEASURES)
    work = {"dense": 1.0, "sdtp": 0.67}.get(schedule, 0.5)
    return {"task": task, "length": length, "question": question, "scorer": scorer,
            "schedule": schedule, "items": 50, "prompt_tokens": 1250.0, "work": work,
            "final_keep": 0.387, "flops_saved": 0.35, "kv_kept": 0.67, "speedup": 1.5,
            "by_depth": [], "stages": [], **measures, **figures}


DENSE = row("dense", "dense", nll=estimate(2.0))
ROWS = [
    DENSE,
    row("random:0", kl=estimate(0.97), survival=estimate(0.4)),
    row("last-query:mean", kl=estimate(0.91), stages=[{"layer": 4, "share": 0.9}]),
    row("last-query:mean", quality.SWEEP[0], kl=estimate(0.5)),
]
MACHINE = {"cpu": "made-up", "cores": 2, "memory_bytes": 2**31, "os": "linux",
           "architecture": "x86_64", "commit": "abc"}


def document(rows, date="2026-01-01", commands=("salient eval --task hotpotqa",)):
    return {"date": date, "command": "scripts/quality record", "machine": MACHINE,
            "evaluations": [{"command": command} for command in commands], "rows": rows}


class Merge(unittest.TestCase):
    def test_later_rows_replace_earlier_ones_of_the_same(self):
        again = row("random:0", kl=estimate(0.5))
        others = [row("random:0", question="later"), row("random:0", "late"),
                  row("random:0", task="squad", length=1024)]
        rows = quality.merge(ROWS, [again, *others])
        self.assertEqual(len(rows), len(ROWS) + len(others))
        self.assertIn(again, rows)
        self.assertNotIn(ROWS[1], rows)

    def test_a_predictor_that_was_trained_anew_replaces_what_it_was(self):
        old, new = row("predictor:a/b.safetensors#0123"), row("predictor:a/b.safetensors#4567")
        self.assertEqual(quality.merge([old], [new]), [new])

    def test_the_row_of_the_most_items_stays(self):
        for row in [DENSE, ROWS[1]]:
            fewer, more = row | {"items": 20}, row | {"items": 200}
            self.assertEqual(quality.merge([row], [fewer]), [row])
            self.assertEqual(quality.merge([row], [more]), [more])

    def test_rows_of_other_code_give_way_but_for_dense_ones(self):
        fewer = ROWS[1] | {"items": 20}
        self.assertEqual(quality.merge([ROWS[1]], [fewer], same_code=False), [fewer])
        fewer = DENSE | {"items": 20}
        self.assertEqual(quality.merge([DENSE], [fewer], same_code=False), [DENSE])


class Matrix(unittest.TestCase):
    def test_every_evaluation_is_a_command(self):
        runs = quality.Runs("needle", 200, ["a", "b"], ["s", "t"], (1024, 2048), ("last", "later"))
        self.assertEqual(" ".join(runs.arguments()),
                         "--task needle --items 200 --length 1024,2048 --question last,later "
                         "--scorer a --scorer b --schedule s --schedule t")
        self.assertEqual(" ".join(runs._replace(scorers=["a", "b", "c"]).quick().arguments()),
                         "--task needle --items 2 --length 512 --question last,later "
                         "--scorer a --scorer b --schedule s")

    def test_what_is_charted_and_titled_is_measured(self):
        measured = {schedule for runs in quality.MATRIX for schedule in runs.schedules}
        self.assertLessEqual({*quality.PRESETS, *quality.SWEEP}, measured)
        self.assertEqual({*quality.TITLES}, {runs.task for runs in quality.MATRIX})


class Record(unittest.TestCase):
    """`record` with a program that prints summaries."""

    def record(self, folder, tasks, interrupted_at=None):
        """What the record holds after a matrix of these tasks."""
        def run(*command, **_):
            if command[0] == "git":
                return mock.Mock(stdout="abc" if command[1] == "log" else "")
            if command[0] == "cargo":
                return None
            self.assertIn(f"{folder}/quality/abc", command)
            task = command[command.index("--task") + 1]
            if task == interrupted_at:
                raise KeyboardInterrupt
            summary = {"model": {}, "settings": {}, "machine": MACHINE, "rows": [row("a", task=task)]}
            return mock.Mock(stdout=json.dumps(summary))

        matrix = [quality.Runs(task, 50, ["a"], ["sdtp"]) for task in tasks]
        with mock.patch.object(quality, "run", run), mock.patch.object(quality, "MATRIX", matrix), \
                mock.patch.object(quality, "target", lambda: folder), \
                mock.patch.object(quality, "RECORDS", folder), mock.patch("builtins.print"):
            if interrupted_at:
                self.assertRaises(KeyboardInterrupt, quality.record, quick=False)
            else:
                quality.record(quick=False)
        (path,) = folder.glob("*-quality-abc.json")
        document = json.loads(path.read_text())
        self.assertTrue(all("--out" not in done["command"] for done in document["evaluations"]))
        rows = [row["task"] for row in document["rows"]]
        self.assertEqual(rows, [done["command"].split()[3] for done in document["evaluations"]])
        return path, rows

    def test_every_evaluation_is_in_the_record_as_soon_as_it_ends(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            path, rows = self.record(folder, ["a", "b", "c"], interrupted_at="c")
            self.assertEqual(rows, ["a", "b"])
            # It was begun on another day.
            other = path.rename(folder / "2000-01-01-quality-abc.json")
            # What was there stays until the end, and then what the matrix has stays alone.
            path, rows = self.record(folder, ["b", "c"], interrupted_at="c")
            self.assertEqual((path, rows), (other, ["a", "b"]))
            self.assertEqual(self.record(folder, ["b", "c"]), (other, ["b", "c"]))

    def test_predictors_that_are_not_there_are_named_first(self):
        matrix = [quality.Runs("needle", 50, ["sdtp", "predictor:no/such.safetensors"], ["sdtp"])]
        self.assertEqual(quality.predictors_missing(matrix), ["no/such.safetensors"])
        there = [quality.Runs("needle", 50, ["predictor:Cargo.toml"], ["sdtp"])]
        self.assertEqual(quality.predictors_missing(there), [])

    def test_code_that_is_no_commit_is_not_recorded(self):
        run = lambda *command, **_: mock.Mock(stdout="abc" if command[1] == "log" else " M src/lib.rs")
        with mock.patch.object(quality, "run", run):
            self.assertRaisesRegex(SystemExit, "differ from commit abc", quality.code, quick=False)
            self.assertEqual(quality.code(quick=True), "abc-dirty")


class Page(unittest.TestCase):
    def page(self, rows=ROWS, charts=(), texts=()):
        rows = [row | {"scorer": quality.label(row["scorer"])} for row in rows]
        path = quality.RECORDS / "2026-01-01-quality-abc.json"
        return quality.page({path: document(rows)}, rows, charts, dict(texts))

    def table(self, page):
        return [line for line in page.splitlines() if line.startswith("| ")]

    def test_a_table_goes_by_schedule_and_from_the_best_to_the_worst(self):
        lines = self.table(self.page())
        names = [(cells[1].strip(), cells[2].strip()) for cells in (line.split("|") for line in lines)]
        self.assertEqual(names, [
            ("schedule", "scorer"), ("", "dense"), ("`sdtp`", "last-query:mean"),
            ("`sdtp`", "random"), (f"`{quality.SWEEP[0]}`", "last-query:mean"),
        ])
        self.assertIn("| 0.910 [0.900, 0.920] |", lines[2])
        self.assertIn("| 50 | 0.670 | 0.387 | 0.350 | 0.670 | 1.50x |", lines[2])
        # No row has an accuracy.
        self.assertEqual(lines[0].split(" | ")[-3:], ["NLL", "KL", "alive at the end |"])

    def test_differences_have_a_column_that_names_whom_from(self):
        above = estimate(0.2) | {"scorer": "salient", "count": 20}
        rows = [row("random:0", kl=estimate(1), kl_above=above),
                row("key-norm", kl=estimate(2), kl_above=above | {"count": 50}),
                row("salient", kl=estimate(0.8), kl_above=None), row("sdtp", kl=estimate(3))]
        lines = self.table(self.page(rows))
        self.assertIn("| KL | KL above `salient` |", lines[0])
        cells = {line.split(" | ")[1]: line.split(" | ")[-1] for line in lines[1:]}
        self.assertEqual(cells, {"salient": " |", "random": "0.200 [0.190, 0.210] (20) |",
                                 "key-norm": "0.200 [0.190, 0.210] |", "sdtp": " |"})
        later = [line | {"question": "later"} for line in rows]
        self.assertIn("KL above `salient-agnostic`", self.table(self.page(later))[0])

    def test_depths_have_columns(self):
        by_depth = [{"depth": 10.0, "accuracy": estimate(1)}, {"depth": 90.0, "accuracy": estimate(0.5)}]
        needle = row("random:0", task="needle", length=2048, question="later", accuracy=estimate(0.75),
                     by_depth=by_depth)
        page = self.page([needle])
        self.assertIn("### 2048 tokens, question later", page)
        self.assertIn("| right | at 10% | at 90% |", page)
        self.assertIn("| 0.750 [0.740, 0.760] | 1.00 | 0.50 |", page)

    def test_charts_stand_below_their_own_table(self):
        later = row("random:0", question="later", kl=estimate(1))
        charts = ["hotpotqa-kl.svg", "hotpotqa-question-later-kl.svg", "squad-1024-kl.svg"]
        page = self.page([*ROWS, later], charts)
        last, later = re.split("question later\n", page)
        self.assertIn("(hotpotqa-kl.svg)", last)
        self.assertIn("(hotpotqa-question-later-kl.svg)", later)
        self.assertEqual(page.count("!["), 2)

    def test_what_was_written_by_hand_stays(self):
        texts = {"introduction": "Whole\nparagraphs.\n\nTwo.\n", "hotpotqa": "One.\n"}
        page = self.page(texts=texts)
        found = quality.written(page)
        self.assertEqual({name: text for name, text in found.items() if text}, texts)
        self.assertEqual(self.page(texts=found), page)
        with self.assertRaisesRegex(SystemExit, "hotpot, and no such"):
            self.page(texts={"hotpot": "Lost.\n"})

    def test_names_of_predictors_are_those_of_their_files(self):
        labels = ["predictor:weights/sdtp.safetensors#0123", "predictor:plain", "last-query:max:17"]
        expected = ["predictor:sdtp", "predictor:plain", "last-query:max:17"]
        self.assertEqual([quality.label(name) for name in labels], expected)

    def test_charts_by_work_are_of_one_kind_of_schedule(self):
        by_work, by_stage = quality.charted(ROWS)
        self.assertEqual([row["schedule"] for row in by_work], ["dense", quality.SWEEP[0]])
        self.assertTrue(all(row["stages"] == [] for row in by_work))
        self.assertEqual([row["scorer"] for row in by_stage], ["random:0", "last-query:mean"])
        self.assertTrue(all(row["kl"] is None for row in by_stage))
        # Where there is no sweep, whatever there is.
        self.assertEqual(len(quality.charted(ROWS[:3])[0]), 3)


if __name__ == "__main__":
    unittest.main()
