"""One Typer command per DVC stage."""

import os
import sys

from fd.runtime import imports, signals

# How long a waiting torch thread spins before it sleeps; torch reads it when it is loaded. The default, practically unlimited,
# is a tenth faster on idle cores, but makes a step of small networks twenty times as long while another program uses a core.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# This makes torch's compiled code compute tanh with exp, which is faster.
os.environ.setdefault("TORCHINDUCTOR_CPP_USE_DECOMPOSE_TANH", "1")

# Figures are drawn without a display. A backend that the user's shell names, such as that of a notebook, need not exist here.
os.environ["MPLBACKEND"] = "svg"

if sys.argv[0] == "-m":  # `python -m stages.<stage>`: its imports take seconds, during which Ctrl-C must work, too
    signals.listen()
    signals.end_with_dvc()
    imports.tell_import_failures()
