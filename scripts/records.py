"""What the scripts that record and render share: where records lie, and how programs are run."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benches" / "records"


def run(*command, **options):
    print("+", *command, file=sys.stderr)
    done = subprocess.run(command, cwd=ROOT, text=True, **options)
    if done.returncode:
        sys.exit(f"error: {command[0]} failed with exit status {done.returncode}")
    return done


def target():
    metadata = run("cargo", "metadata", "--format-version=1", "--no-deps", stdout=subprocess.PIPE)
    return pathlib.Path(json.loads(metadata.stdout)["target_directory"])


def about(machine):
    """Where something was measured, in words."""
    memory = machine["memory_bytes"]
    memory = f"{memory / 2**30:.0f} GiB" if memory else "?"
    return (f"at commit `{machine['commit']}` on {machine['cores']} cores of {machine['cpu']} with "
            f"{memory} ({machine['architecture']}, {machine['os']})")


def write(path, document):
    write_whole(path, json.dumps(document, indent=1) + "\n")


def write_whole(path, text):
    """Writes a file that is never seen half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)
