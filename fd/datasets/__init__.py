"""Where data come from: OGBench, Minari, D4RL and the collectors that make such sets here.

It imports simulation, settings, storage.
"""
