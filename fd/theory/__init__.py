"""The claims of the method, checked on distributions that are known in closed form.

It imports method, networks, settings and the figures of report.
"""
