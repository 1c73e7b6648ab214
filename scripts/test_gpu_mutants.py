"""Tests of gpu-mutants: its table fits the machine, and its verdicts are right."""

import importlib.machinery
import importlib.util
import pathlib
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("gpu_mutants", str(HERE / "gpu-mutants"))
mutants = importlib.util.module_from_spec(importlib.util.spec_from_loader("gpu_mutants", loader))
loader.exec_module(mutants)


class GpuMutants(unittest.TestCase):
    def test_every_old_text_is_there_once_and_changes(self):
        names = set()
        for mutant in mutants.read():
            self.assertEqual(set(mutant), {"name", "lenient", "file", "old", "new", "test"})
            self.assertNotIn(mutant["name"], names)
            names.add(mutant["name"])
            before = (mutants.CRATE / mutant["file"]).read_text()
            self.assertNotEqual(mutants.edited(mutant), before)

    def test_a_text_that_is_not_there_stops_it(self):
        mutant = dict(mutants.read()[0], old="nowhere in the machine")
        with self.assertRaises(SystemExit):
            mutants.edited(mutant)

    def test_only_a_test_that_fails_has_caught_it(self):
        def done(code, output):
            return subprocess.CompletedProcess([], code, output)

        failed = "test races::a ... FAILED\ntest result: FAILED. 1 passed; 1 failed\n"
        self.assertEqual(mutants.verdict(done(101, failed)), (True, "races::a"))
        self.assertFalse(mutants.verdict(done(0, "test result: ok. 2 passed; 0 failed"))[0])
        self.assertFalse(mutants.verdict(done(101, "error[E0308]: mismatched types"))[0])

    def test_a_copy_is_made_as_the_crate_is(self):
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder)
            (copy / "stray").write_text("")
            mutants.restore(copy)
            mutant = mutants.read()[0]
            mutants.apply(mutant, copy)
            self.assertEqual((copy / mutant["file"]).read_text(), mutants.edited(mutant))
            mutants.restore(copy)
            for path in copy.rglob("*"):
                if path.is_file():
                    same = (mutants.CRATE / path.relative_to(copy)).read_bytes()
                    self.assertEqual(path.read_bytes(), same)


if __name__ == "__main__":
    unittest.main()
