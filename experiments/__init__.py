"""Hydra apps, one file a claim: `python -m experiments NAME`; `python -m experiments` runs all."""

import os

from ustat_grpo.inputs.extras import from_extra

# Our matrices are small: BLAS on several threads slows them down, thirtyfold on a busy machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from_extra("hydra")  # or a word how to get it, and the other libraries of the experiments
