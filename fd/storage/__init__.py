"""Files: written whole or not at all, checked when they are read; transitions, tensors, records, scratch folders.

It imports runtime.
"""
