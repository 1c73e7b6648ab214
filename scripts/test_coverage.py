"""Tests of kernel-coverage, on logs that are made up."""

import contextlib
import importlib.machinery
import importlib.util
import io
import pathlib
import sys
import tempfile
import unittest
from unittest import mock

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("kernel_coverage", str(HERE / "kernel-coverage"))
coverage = importlib.util.module_from_spec(importlib.util.spec_from_loader("kernel_coverage", loader))
loader.exec_module(coverage)

LOG = """{"architecture":90}
{"kernel":"a","launches":3}
{"kernel":"b","launches":0}
{"architecture":80}
{"fault":{"kernel":"a","kind":"Race"}}
{"kernel":"a","launches":1}
{"kernel":"b","launches":2}
{"architecture":90}
{"kernel":"a","launches":4}
{"kernel":"c","launches":0}
"""


class Counts(unittest.TestCase):
    def test_processes_add_up_by_architecture(self):
        expected = {(90, "a"): 7, (90, "b"): 0, (80, "a"): 1, (80, "b"): 2, (90, "c"): 0}
        self.assertEqual(dict(coverage.counted(LOG)), expected)

    def test_a_kernel_of_no_architecture_is_an_error(self):
        with self.assertRaisesRegex(SystemExit, "line 1 .* no architecture"):
            coverage.counted('{"kernel":"a","launches":3}')

    def test_two_programs_with_one_kernel_count_as_one(self):
        names = {"x1": "x", "x2": "x"}
        counts = coverage.by_name({(90, "x1"): 0, (90, "x2"): 2}, names)
        self.assertEqual(dict(counts), {(90, "x"): 2})


class Names(unittest.TestCase):
    def test_templates_keep_their_arguments(self):
        long = ("void salient::(anonymous namespace)::decode<salient::bf16, salient::e4m3, 128, 2>"
                "(SalientDecodeParams, int)")
        self.assertEqual(coverage.short(long), "decode<bf16, e4m3, 128, 2>")
        self.assertEqual(coverage.short("salient::compiled_for()"), "compiled_for")
        self.assertEqual(coverage.short("void keynorm<float, (bool)1>(P, int)"), "keynorm<float, 1>")

    def test_mangled_names_are_read(self):
        names = coverage.readable({"_ZN7salient12compiled_forEv", "plain"})
        self.assertEqual(names["_ZN7salient12compiled_forEv"], "compiled_for")
        self.assertEqual(names["plain"], "plain")


class Judgement(unittest.TestCase):
    def test_what_was_never_launched_is_named(self):
        launches = {(90, "decode<f16>"): 2, (80, "decode<f16>"): 0, (90, "pool"): 0}
        self.assertEqual(coverage.judge(launches, []),
                         ["error: never launched on sm_80: decode<f16>",
                          "error: never launched on sm_90: pool"])

    def test_exceptions_hold_on_their_architecture_alone(self):
        launches = {(80, "wide<1>"): 0, (90, "wide<1>"): 0}
        one = coverage.exceptions("# why\n\n80 wide<.*>: not there: really\n")
        self.assertEqual(one, [("80", "wide<.*>", "not there: really")])
        self.assertEqual(coverage.judge(launches, one), ["error: never launched on sm_90: wide<1>"])
        every = coverage.exceptions("any wide<.*>: nowhere")
        self.assertEqual(coverage.judge(launches, every), [])

    def test_exceptions_of_no_use_are_errors(self):
        launches = {(80, "a"): 1, (80, "ab"): 0, (80, "b"): 2, (90, "b"): 1}
        found = coverage.judge(launches, [("80", "a.*", "why"), ("80", "b", "why"), ("90", "a", "?"),
                                          ("100", "a", "of a device that the logs do not tell of")])
        self.assertEqual(found, ["error: an exception excuses no kernel: 80 b",
                                 "error: an exception excuses no kernel: 90 a"])
        with self.assertRaisesRegex(SystemExit, "no exception"):
            coverage.exceptions("80 without a reason")

    def test_logs_without_kernels_are_an_error(self):
        self.assertEqual(coverage.judge({}, []), ["error: the logs tell of no kernel"])


class Whole(unittest.TestCase):
    def run_on(self, *logs, excepted=""):
        with tempfile.TemporaryDirectory() as folder:
            paths = [pathlib.Path(folder) / f"{i}.log" for i in range(len(logs))]
            for path, log in zip(paths, logs):
                path.write_text(log)
            file = pathlib.Path(folder) / "exceptions"
            file.write_text(excepted)
            out = io.StringIO()
            with mock.patch.object(coverage, "EXCEPTIONS", file), \
                 mock.patch.object(sys, "argv", ["kernel-coverage", *map(str, paths)]), \
                 contextlib.redirect_stdout(out):
                coverage.main()
            return out.getvalue()

    def test_logs_add_up(self):
        other = '{"architecture":90}\n{"kernel":"b","launches":1}\n{"kernel":"c","launches":1}\n'
        self.assertIn("every kernel was launched", self.run_on(LOG, other, "", excepted=""))

    def test_a_hole_fails(self):
        with self.assertRaisesRegex(SystemExit, "never launched on sm_90: b\n.*sm_90: c"):
            self.run_on(LOG)
        said = self.run_on(LOG, excepted="90 [bc]: made up")
        self.assertIn("every kernel was launched", said)

    def test_the_exceptions_can_be_read(self):
        self.assertTrue(coverage.exceptions(coverage.EXCEPTIONS.read_text()))


if __name__ == "__main__":
    unittest.main()
