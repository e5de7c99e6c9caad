"""Published tasks, scores and hyperparameters of the benchmark, and the suites composed of them.

It imports storage.
"""
