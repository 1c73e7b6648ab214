"""Tests of device-run and device_record.py, with programs and figures that are made up."""

import importlib.machinery
import importlib.util
import json
import pathlib
import sys
import tempfile
import unittest
from unittest import mock

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import device_record

ABOUT = {"commit": "made-up", "architectures": "90a", "nvcc": "0", "rustc": "0"}
MEASURED = [
    {"case": "floor/copy", "who": "driver", "seconds": [0.9, 1.0, 1.1], "runs": 60, "bytes": 1000},
    {"case": "floor/copy", "who": "torch", "seconds": [0.9, 2.0, 3.1], "runs": 60, "bytes": 1000},
    {"case": "floor/matmul", "who": "torch", "seconds": [1, 2, 3], "runs": 60, "flops": 4000},
    {"case": "select/8 x 16384 keep 5734", "who": "salient", "seconds": [5e-6, 7e-6, 9e-6],
     "runs": 60},
    {"case": "select/8 x 16384 keep 5734", "who": "torch, graph", "seconds": [6e-5, 7e-5, 8e-5],
     "runs": 60},
    {"case": f"{device_record.KV}, paged, stable", "who": "salient", "seconds": [1, 2, 3],
     "runs": 60, "bytes": 1500},
    {"case": "score/[16384, 4096] bf16 to 1024 to 1", "who": "torch, compiled",
     "error": "RuntimeError: made | up\nand more"},
    {"case": f"attend/causal 8192, {device_record.HEADS}", "who": "salient", "seconds": [1, 2, 3],
     "runs": 60, "flops": 2000},
    {"case": f"attend/causal 8192, {device_record.HEADS}", "who": "torch, cuDNN",
     "seconds": [2, 3, 4], "runs": 60, "flops": 2000},
]


class Record(unittest.TestCase):
    def setUp(self):
        self.document = device_record.merge(ABOUT, {"name": "no device"}, [], MEASURED, {})

    def test_floors_are_the_best_of_those_measured(self):
        floors = {"copy_bytes_per_second": 1000.0, "matmul_flops_per_second": 2000.0}
        self.assertEqual(self.document["floors"], floors)

    def test_shares_are_of_the_floors_of_the_same_run(self):
        self.assertEqual(self.document["device"][5]["share_of_copy"], 0.75)
        document = device_record.merge(ABOUT, {}, [], MEASURED[5:6], {})
        self.assertNotIn("share_of_copy", document["device"][0])

    def test_only_what_was_measured_fills_a_row(self):
        rows = device_record.budgets(self.document).splitlines()[2:]
        self.assertEqual(len(rows), len(device_record.BUDGETS))
        self.assertIn("| 7 us, 10.0x over torch, graph |", rows[1])
        self.assertIn("| paged, stable: 2 s, 75% of copy |", rows[4])
        self.assertIn("| causal 8192: 2 s, 50% of matmul, 1.5x over torch, cuDNN |", rows[5])
        for row in [*rows[:1], *rows[2:4], *rows[6:]]:
            self.assertTrue(row.endswith("| not measured |"), row)
        rows = device_record.budgets(None).splitlines()[2:]
        self.assertTrue(all(row.endswith("| not measured |") for row in rows))

    def test_what_ran_on_the_software_gpu_is_no_record(self):
        machine = {"gpu": "Software GPU (sm_90)"}
        with self.assertRaisesRegex(ValueError, "no measurement"):
            device_record.merge({}, machine, [], [], [])

    def test_errors_are_in_the_table(self):
        self.assertIn("RuntimeError: made \\| up", device_record.measurements(self.document))


class Run(unittest.TestCase):
    """device-run in a folder whose programs are shell scripts."""

    def run_with(self, **programs):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            (folder / "bin").mkdir()
            (folder / "about.json").write_text(json.dumps(ABOUT))
            says = {"probes": "", "bench": "", "conformance":
                    '[ "$1" = --list ] && echo "one: test" && echo "two: test"'} | programs
            for program, text in says.items():
                path = folder / "bin" / program
                path.write_text(f"#!/bin/sh\n{text}\nexit $?\n")
                path.chmod(0o755)
            loader = importlib.machinery.SourceFileLoader("run", str(HERE / "device-run"))
            run = importlib.util.module_from_spec(importlib.util.spec_from_loader("run", loader))
            sys.dont_write_bytecode = True
            loader.exec_module(run)
            run.HERE, run.TEST = folder, 2
            with mock.patch.object(sys, "argv", ["device-run", str(folder / "results")]), \
                    mock.patch.object(run, "machine", dict), mock.patch("builtins.print"), \
                    mock.patch.object(run.shutil, "which", lambda _: None):
                try:
                    run.main()
                    failed = ""
                except SystemExit as error:
                    failed = str(error)
            (record,) = (folder / "results").glob("*-device-made-up.json")
            return failed, json.loads(record.read_text())

    def ended(self, document):
        return {step["name"]: step["status"] for step in document["steps"]}

    def test_what_passes_is_recorded_and_measured(self):
        line = json.dumps(MEASURED[0])
        conformance = '[ "$1" = --list ] && echo "one: test" || true'
        failed, document = self.run_with(bench=f"echo '{line}'", conformance=conformance)
        self.assertEqual(failed, "")
        ended = self.ended(document)
        for step in ["probes", "conformance", "conformance/one", "bench/compact"]:
            self.assertEqual(ended[step], "passed")
        self.assertEqual(ended["sanitizer/racecheck"], "absent")
        self.assertEqual(document["floors"], {"copy_bytes_per_second": 1000.0})

    def test_what_fails_is_named_and_stops_nothing(self):
        failed, document = self.run_with(
            probes="sleep 60",
            conformance='[ "$1" = --list ] && echo "one: test" || { echo because >&2; false; }',
            bench="echo no line of JSON; false")
        self.assertEqual(failed, "error: failed: probes, conformance/one")
        ended = self.ended(document)
        self.assertEqual(ended["probes"], "timed out")
        self.assertEqual(ended["conformance/one"], "failed")
        self.assertEqual(ended["bench/compact"], "failed")
        (message,) = [step["message"] for step in document["steps"]
                      if step["name"] == "conformance/one"]
        self.assertIn("because", message)
        self.assertIn("exit status 1", message)


if __name__ == "__main__":
    unittest.main()
