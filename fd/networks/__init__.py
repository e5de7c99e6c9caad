"""Networks of all seeds at once: MLP, IMPALA encoder, their affine layer, and Adam over them.

It imports nothing of the project.
"""
