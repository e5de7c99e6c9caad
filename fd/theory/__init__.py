"""Demonstrations on distributions whose scores and divergences are known."""
