"""Moments that no problem has are refused, estimates that may be negative are taken."""

from dataclasses import replace

import numpy as np
import pytest

from support.problems import moments_of
from ustat_grpo import OutcomeMoments, SoftmaxBandit
from ustat_grpo.moments import OF_PROMPTS


@pytest.mark.parametrize("name", OF_PROMPTS)
def test_every_field_has_a_finite_number_a_prompt(name):
    """Would catch: a NaN that goes through all laws to a table, and numbers that broadcast."""
    moments = moments_of()
    for wrong in (np.nan, np.inf):
        with pytest.raises(ValueError, match=rf"^{name} must be finite, got 1 NaN or infinity$"):
            replace(moments, **{name: np.array([wrong])})
    with pytest.raises(ValueError, match=r"must have one number a prompt, shape \((1|2),\), got"):
        replace(moments, **{name: np.full(2, 0.5)})
    with pytest.raises(ValueError, match=r"must have one number a prompt, shape \(1,\), got"):
        replace(moments, **{name: np.full((1, 1), 0.5)})


def test_what_cannot_be_whatever_was_estimated():
    moments = moments_of()
    with pytest.raises(ValueError, match=r"^reward_variance must not be negative, got -0.25$"):
        replace(moments, reward_variance=np.array([-0.25]))
    with pytest.raises(ValueError, match=r"^prompt_probs must be probabilities that sum to 1, got"):
        replace(moments, prompt_probs=np.array([0.5]))
    with pytest.raises(ValueError, match=r"^prompt_noise must be a finite number, got nan$"):
        replace(moments, prompt_noise=np.nan)
    outcome = OutcomeMoments(np.full(2, 0.5), np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match=r"^outcome must have one number a prompt, shape \(1,\)"):
        replace(moments, outcome=outcome)
    with pytest.raises(ValueError, match=r"^success_probability must lie in \[0, 1\], got 1.5$"):
        replace(outcome, success_probability=np.array([0.5, 1.5]))
    with pytest.raises(ValueError, match=r"^failure_score_norm_squared must be finite, got 1 NaN"):
        replace(outcome, failure_score_norm_squared=np.array([0.5, np.nan]))


def test_unbiased_estimates_may_be_negative():
    moments = moments_of(oracle_norm_squared=-0.1, gradient_norm_squared=-0.1)
    assert replace(moments, prompt_noise=-0.01).gradient_norm_squared.tolist() == [-0.1]
    nearly = replace(moments, reward_variance=np.array([-1e-16]))
    assert nearly.reward_variance.tolist() == [-1e-16]
    certain = SoftmaxBandit.tabular([0, 1], [[[1, 0], [1, 0]]]).at([0, 0]).moments
    assert certain.reward_variance.tolist() == [0.0]
