"""From a dataset to trained networks: random streams, replay, bank, loop, checkpoints, offline and online.

It imports method and simulation.
"""
