"""What others published: tasks of the benchmark, scores, hyperparameters, and the suites composed of them.

It imports storage.
"""
