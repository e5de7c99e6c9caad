"""params.yaml: one module a kind of settings, so that a stage imports what it reads.

It imports storage and the fields of fd.method.spec.
"""
