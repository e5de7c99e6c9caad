"""Pages, tables and figures of results, the regression test, and the trace of a number.

It imports results, reference and settings.
"""
