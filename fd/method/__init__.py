"""The paper: flow, Fisher scores and metrics, critic, objective, baselines, and the agent that joins them.

It imports networks.
"""
