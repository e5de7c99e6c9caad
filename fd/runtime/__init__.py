"""The process: signals, device, memory, progress, the code that it runs, how it ends.

It imports nothing of the project but errors.
"""
