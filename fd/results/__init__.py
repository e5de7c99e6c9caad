"""What was found: the cells of a suite, episodes, statistics, estimates, and what each came from.

It imports settings and storage.
"""
