"""The three noise components c₁, c₂, c₃ of a model's gradient from a sample of its own rollouts.

An `OutputSample` holds rewards, score norms and gradient products of B prompts with at least three
outputs each; `sign_probes` does with the norms of weighted sums of scores alone. `estimate_noise`
turns either into unbiased estimates with intervals, and into one for the best group size.
`save_sample` and `load_sample` keep them in files.
"""

from ustat_grpo.noise.estimate import NoiseEstimate, estimate_noise
from ustat_grpo.noise.interval import GroupSizeEstimate, Interval
from ustat_grpo.noise.sample import OutputSample
from ustat_grpo.noise.sample_files import load_sample, save_sample
from ustat_grpo.noise.signs import SignProbes, SignSample, sign_probes

__all__ = [
    "GroupSizeEstimate",
    "Interval",
    "NoiseEstimate",
    "OutputSample",
    "SignProbes",
    "SignSample",
    "estimate_noise",
    "load_sample",
    "save_sample",
    "sign_probes",
]
