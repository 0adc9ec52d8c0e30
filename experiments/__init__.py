"""Hydra apps, one file a claim: `python -m experiments.NAME`; `python -m experiments` runs all."""
