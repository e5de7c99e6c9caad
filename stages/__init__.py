"""One Typer command per DVC stage."""

import os
import sys

from fd.runtime import signals

# How long a thread of torch that waits for another spins before it sleeps, set before torch is loaded. The default, as good as for ever,
# is a tenth faster on idle cores, but makes a step of small networks twenty times as long where another program wants a core.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# Compiled code takes tanh by exp, which is faster, when torch reads this.
os.environ.setdefault("TORCHINDUCTOR_CPP_USE_DECOMPOSE_TANH", "1")

if sys.argv[0] == "-m":  # `python -m stages.<stage>`, whose imports take seconds in which Ctrl-C is to be heard, too
    signals.listen()
    signals.end_with_dvc()
