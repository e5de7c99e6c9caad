"""Cells of the pipeline on many machines: a cell is one cached stage of dvc.yaml, made in a workspace of its own by Slurm or Ray."""
