"""Fisher Decorator: flow behaviour policies refined under a Fisher trust region.

Public names: `fd.policy.Policy`, `fd.errors.FdError`, `fd.wrappers`.
"""
