"""Hydra apps, one file a claim: `python -m experiments NAME`; `python -m experiments` runs all."""

import os

# Our matrices are small: BLAS on several threads slows them down, thirtyfold on a busy machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
