"""Noise and samples for the tests of `ustat_grpo.planner`."""

from __future__ import annotations

import numpy as np

from ustat_grpo.moments import NoiseComponents
from ustat_grpo.noise import NoiseEstimate, OutputSample

KNOWN = NoiseComponents(prompt=0.02, oracle=3.0, residual=5.0)  # G* = 1 + √250 = 16.8


def estimate(prompt_error: float = 0.004, prompt: float = 0.02, count: int = 400) -> NoiseEstimate:
    """Contributions without skewness whose means are those of KNOWN, of given error in c₁."""
    half = np.random.default_rng(0).normal(size=(count // 2, 3))
    both = np.concatenate([half, -half])
    white = both @ np.linalg.inv(np.linalg.cholesky(np.cov(both.T))).T
    errors = np.array([prompt_error, 0.1, 0.2]) * np.sqrt(count)
    return NoiseEstimate(np.array([prompt, 3.0, 5.0]) + white * errors, 0.95)


def binary_sample(rng, sizes=(6, 5, 9, 7, 4, 8, 5, 6, 4, 9)) -> OutputSample:
    """0/1 rewards of prompts between hard and easy, scores of three dimensions."""
    values = np.linspace(0.2, 0.8, len(sizes))
    scores = [rng.normal(size=(size, 3)) for size in sizes]
    rewards = [
        (rng.random(size) < value).astype(float) for size, value in zip(sizes, values, strict=True)
    ]
    rewards[0][:2] = 0.0, 1.0
    return OutputSample.from_scores(scores, rewards)
