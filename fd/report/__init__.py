"""Pages, tables and figures of results, the regression test, and the trace of a score to its sources.

It imports results, reference and settings.
"""
