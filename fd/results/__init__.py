"""Results: the grid of a suite, scores of episodes, statistics, estimates, and the origin of each.

It imports settings and storage.
"""
