"""A name of a configuration is one object: an estimator with the laws that are its own."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from experiments.running.estimators import _COMPARED, algorithms, require_group_size, resolve
from theory.problems import random_problem
from ustat_grpo import GroupMean, Shrinkage
from ustat_grpo.bandits.expansion import Expansion
from ustat_grpo.laws import covariance, mse

PARAMETERS = {"constant_baseline": {"baseline": 0.3}, "shrinkage": {"weight": 0.5}}


@pytest.fixture(scope="module")
def compared():
    """Every name that there is."""
    return resolve({name: PARAMETERS.get(name, {}) for name in _COMPARED})


@pytest.fixture(scope="module")
def snapshot():
    """A problem whose prompts are not equally likely."""
    return random_problem(5, num_actions=3, num_levels=3, dimension=4)


def test_the_laws_are_given_the_parameters(compared, snapshot):
    """Would catch: a law at the default weight, or at that of another estimator."""
    exact = mse.minibatch(
        mse.shrinkage(snapshot.moments, group_size=4, weight=0.5), snapshot.moments, batch_size=8
    )
    assert compared["shrinkage"].law(snapshot.moments, 4, 8) == exact
    assert compared["shrinkage"].estimator == Shrinkage(0.5)
    scores = Expansion(snapshot).score_moments
    found, wanted = compared["shrinkage"].noise(scores), covariance.shrinkage(scores, weight=0.5)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_only_the_group_mean_has_a_gain(compared):
    gains = {name: each.gain(4) for name, each in compared.items()}
    assert gains.pop("group_mean") == 0.75
    assert set(gains.values()) == {1.0}


def test_each_is_what_it_is_called(compared):
    assert all(name == each.name for name, each in compared.items())
    assert algorithms(compared)["group_mean"] == GroupMean()


def test_a_worker_process_gets_the_same(compared, snapshot):
    """Configurations are sent to other processes, and what they hold with them."""
    again = pickle.loads(pickle.dumps(compared))
    for name, each in compared.items():
        assert again[name].law(snapshot.moments, 4, None) == each.law(snapshot.moments, 4, None)


def test_a_group_that_is_too_small(compared):
    require_group_size({"vanilla": compared["vanilla"]}, 1)
    with pytest.raises(ValueError, match=r"^group_size must be at least 2 .*, got 1$"):
        require_group_size(compared, 1)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"grop": {}}, r"^estimators must be among vanilla, .*, got 'grop'$"),
        ({"grpo": {"weight": 1}}, r"^parameters of grpo must be among \[\], got \['weight'\]$"),
        ({"shrinkage": {}}, r"^shrinkage must be given \['target', 'weight'\], got \{\}$"),
    ],
)
def test_mistakes(asked, message):
    with pytest.raises(ValueError, match=message):
        resolve(asked)
