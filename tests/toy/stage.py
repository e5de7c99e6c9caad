"""A stage that works in steps and keeps a checkpoint in .scratch: `python stage.py <kind> <task> [<method>]`.

Settings of a method: its steps, seconds of a step, an exit code, and whom to kill once, after the first step: stage, dvc or worker.
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

FOLDERS = {"download": "data", "refine": "runs", "evaluate": "evals"}
PROGRAMS = {"dvc": b"fd.cluster.reproduce", "worker": b"fd.cluster.worker"}


def ancestor(program: bytes) -> int:
    """Number of the ancestor that runs a program."""
    process = os.getpid()
    while program not in Path(f"/proc/{process}/cmdline").read_bytes():
        process = int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return process


kind, *names = sys.argv[1:]
settings = json.loads(Path("params.yaml").read_text())["methods"][names[1]] if kind == "refine" else {}
name, out = "-".join([kind, *names]), Path(FOLDERS[kind], *names)
scratch = Path(".scratch", name)
scratch.mkdir(parents=True, exist_ok=True)
checkpoint = scratch / "step"
start = step = int(checkpoint.read_text()) if checkpoint.exists() else 0
print(f"{name}: from step {step}, process {os.getpid()}", flush=True)
parent = os.getppid()
while step < settings.get("steps", 1):
    time.sleep(settings.get("seconds", 0.0))
    step += 1
    (new := scratch / "new").write_text(str(step))
    new.replace(checkpoint)
    if start == 0 and step == 1 and (whom := settings.get("kill")):
        os.kill(ancestor(PROGRAMS[whom]) if whom in PROGRAMS else os.getpid(), signal.SIGKILL)
        end = time.monotonic() + 60  # on a busy machine the signal takes its time
        while os.getppid() == parent and time.monotonic() < end:
            time.sleep(0.01)
    if os.getppid() != parent:  # as fd.runtime.signals.end_with_dvc
        sys.exit("error: DVC is gone")
if code := settings.get("exit", 0):
    sys.exit(code)
shutil.rmtree(out, ignore_errors=True)
out.mkdir(parents=True)
needed = {"refine": Path("data", names[0]), "evaluate": Path("runs", *names)}.get(kind)
read = (needed / "x.txt").read_text() if needed else ""
(out / "x.txt").write_text(read + name + "\n")
shutil.rmtree(scratch)
