"""Simulators behind one interface, episodes in worker processes, evaluation of policies.

It imports policy, settings, storage, runtime.
"""
