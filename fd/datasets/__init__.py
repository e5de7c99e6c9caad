"""Data sets: published ones of OGBench, Minari and D4RL, and collectors that generate sets in their formats.

It imports simulation, settings, storage.
"""
