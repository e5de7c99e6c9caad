"""One Typer command per DVC stage."""

import os

# Threads of torch that wait for each other sleep instead of spinning, set before torch is loaded: a quarter slower at best, but
# where another program wants a core, spinning makes a step of small networks more than ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
