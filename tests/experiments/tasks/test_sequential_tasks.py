"""Sequential tasks as a user meets them: policies, ranges, and what cannot be done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from experiments.gradient_error import gradient_mse
from experiments.group_size import group_size
from support import toy_environments  # noqa: F401  (registers its environments)
from support.apps import checked, refuses
from ustat_grpo.environments import Affine, MlpPolicy, OneHot, Quadratic, snapshot

ROOT = Path(__file__).parents[3]
BANDIT = "env_id=ustat_grpo.environments:ustat_grpo/ContextualBandit-v0"
FEW = ("task.num_prompts=4", "task.num_outputs=32", "task.num_copies=8", "task.trained=[0]")


class Moody(gym.Env):
    """Resets with one seed differ."""

    def __init__(self) -> None:
        self.observation_space = Box(-1.0, 1.0, (2,), np.float64)
        self.action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.random.default_rng().uniform(-1, 1, 2), {}

    def step(self, action):
        return np.zeros(2), 1.0, True, False, {}


gym.register("Moody-v0", Moody)


def task(*overrides):
    """Return the task of a configuration."""
    return checked("gradient_mse", *overrides).task


def policy(*overrides):
    """Return the policy of a task on an environment, before it is trained."""
    ((name, panel),) = task(*FEW, *overrides).snapshots.items()
    assert name.endswith(": 0 iterations")
    np.testing.assert_array_equal(
        np.ptp(panel.policy.logits(panel.theta, observation(overrides)), axis=1), 0
    )
    return panel.policy


def observation(overrides):
    """Return one observation of CartPole, or of an environment with states."""
    return np.zeros((1, 4)) if "task=cartpole" in overrides else np.zeros(1, dtype=int)


class TestFrozenLake:
    def test_policies_reach_what_they_are_named_by(self):
        """Would catch: objectives in another order, or of the one start of the original map."""
        found = task("task=frozenlake", "task.objectives=[0.3,0.1]").snapshots
        assert list(found) == ["frozenlake: J = 0.3", "frozenlake: J = 0.1"]
        for panel, reached in zip(found.values(), (0.3, 0.1), strict=True):
            assert snapshot(*panel).objective == pytest.approx(reached, rel=1e-6)
            assert len(panel.mdp.starts) == 11  # cells that are neither hole nor goal

    def test_parameters_reach_the_table(self):
        ((_, panel),) = task(
            "task=frozenlake", "task.objectives=[0.2]", "task.map_name=8x8", "task.discount=0.99",
            "task.horizon=70", "task.is_slippery=false",
        ).snapshots.items()  # fmt: skip
        assert (panel.mdp.num_states, panel.mdp.horizon, panel.mdp.discount) == (64, 70, 0.99)
        assert np.count_nonzero(panel.mdp.probs, axis=2).max() == 1


class TestPolicies:
    def test_of_states(self):
        """A linear policy of states is the tabular one."""
        for family in ("linear", "tabular"):
            found = policy("task=gym", BANDIT, f"task.policy={family}")
            assert found.features == OneHot(16) and found.dimension == 16 * 4

    def test_of_arrays(self):
        affine = policy("task=cartpole")
        assert affine.features == Affine((2.4, 2.0, 0.2, 2.0)) and affine.num_actions == 2
        quadratic = policy("task=cartpole", "task.features=quadratic", "task.scale=null")
        assert quadratic.features == Quadratic((1.0, 1.0, 1.0, 1.0))

    def test_networks(self):
        of_arrays = policy("task=cartpole", "task.policy=mlp", "task.hidden=[3,2]")
        assert of_arrays == MlpPolicy(Affine((2.4, 2.0, 0.2, 2.0)), (3, 2), 2)
        of_states = policy("task=gym", BANDIT, "task.policy=mlp", "task.features=null")
        assert of_states == MlpPolicy(OneHot(16), (32,), 4)

    def test_more_training_is_the_same_path(self):
        """Would catch: policies that depend on what else is in the list, or on its order."""
        several = task("task=gym", BANDIT, *FEW, "task.trained=[4,0,2]").snapshots
        assert list(several) == [f"gym: {n} iterations" for n in (4, 0, 2)]
        for count in (0, 2, 4):
            ((name, alone),) = task(
                "task=gym", BANDIT, *FEW, f"task.trained=[{count}]"
            ).snapshots.items()
            np.testing.assert_array_equal(alone.theta, several[name].theta)
        assert not several["gym: 0 iterations"].theta.any()
        assert several["gym: 4 iterations"].theta.any()

    def test_training_raises_the_return(self):
        """Would catch: a step downhill, or none. Mean reward 0.5 is what chance gives."""
        made = task("task=gym", BANDIT, "task.trained=[0,40]", "task.num_prompts=16",
                    "task.num_outputs=64", "task.learning_rate=5")  # fmt: skip
        with made.copies() as copies:
            reached = [
                np.mean([prompt.rewards.mean() for prompt in pool.prompts])
                for pool in (
                    made.pool(copies, panel, np.random.default_rng(0))
                    for panel in made.snapshots.values()
                )
            ]
        assert reached[1] > reached[0] + 0.1

    def test_parameters_reach_the_environment(self):
        made = task(
            "task=gym", "env_id=Walk-v0", *FEW, "task.max_steps=500", "+task.env_kwargs.fault=''"
        )
        with made.copies() as copies:
            assert len(copies) == 8 and copies.max_steps == 500
        assert "PassiveEnvChecker" not in str(copies.environments[0])


def test_schemas_need_no_gymnasium():
    """Would catch: `--help` that waits for an import."""
    names = "experiments.gradient_error.gradient_mse, experiments.group_size.group_size"
    program = f"import sys, {names}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT
    )
    modules = set(done.stdout.split())
    assert "experiments.tasks.sequential" in modules
    assert not {"gymnasium", "torch"} & modules


GYM = ("task=gym", BANDIT)
RANGES = {
    "no environment": (["task=gym"], "env_id must be an id that gymnasium.make knows, got None"),
    "discount zero": (
        ["task=frozenlake", "task.discount=0"],
        "task.discount must be a finite number and above 0, got 0.0",
    ),
    "discount above one": (
        ["task=cartpole", "task.discount=1.5"],
        "task.discount must be at most 1, got 1.5",
    ),
    "rate": (
        ["task=frozenlake", "task.learning_rate=0"],
        "task.learning_rate must be a finite number and above 0, got 0.0",
    ),
    "no objectives": (
        ["task=frozenlake", "task.objectives=[]"],
        "task.objectives must hold at least one value, got []",
    ),
    "objective zero": (
        ["task=frozenlake", "task.objectives=[0.1,0]"],
        "task.objectives must be a finite number and above 0, got 0.0",
    ),
    "map": (
        ["task=frozenlake", "task.map_name=9x9"],
        "map_name must be one of 4x4, 8x8, or rows, got '9x9'",
    ),
    "one prompt": (
        [*GYM, "task.num_prompts=1"],
        "task.num_prompts must be an integer of at least 2, got 1",
    ),
    "few outputs": (
        [*GYM, "task.num_outputs=16"],
        "task.num_outputs must be an integer of at least 32, got 16",
    ),
    "blocks of the pool": (
        [*GYM, "task.num_outputs=100"],
        "task.num_outputs must be a multiple of 16, got 100",
    ),
    "seed": ([*GYM, "task.seed=-1"], "task.seed must be an integer of at least 0, got -1"),
    "no runs": (
        [*GYM, "task.share_of_runs=0"],
        "task.share_of_runs must be a finite number and above 0, got 0.0",
    ),
    "policy": (
        [*GYM, "task.policy=transformer"],
        "task.policy must be among linear, tabular, mlp, got 'transformer'",
    ),
    "features": (
        [*GYM, "task.features=cubic"],
        "task.features must be among affine, quadratic, got 'cubic'",
    ),
    "scale": (
        ["task=cartpole", "task.scale=[1,1,0,1]"],
        "task.scale must be a finite number and above 0, got 0.0",
    ),
    "no layer": ([*GYM, "task.hidden=[]"], "task.hidden must hold at least one value, got []"),
    "no steps": (
        [*GYM, "task.max_steps=0"],
        "task.max_steps must be an integer of at least 1, got 0",
    ),
    "no policies": ([*GYM, "task.trained=[]"], "task.trained must hold at least one value, got []"),
    "negative training": (
        [*GYM, "task.trained=[0,-1]"],
        "task.trained must be an integer of at least 0, got -1",
    ),
    "iterations that go back": (
        [*GYM, "task.iterations=[2,1]"],
        "task.iterations must be increasing, got [2, 1]",
    ),
}
MAKE = "env_id and task.env_kwargs must be what gymnasium.make takes, got"
ARRAYS = (
    "task.features must name a feature map (affine or quadratic), or task.policy be mlp, for "
    "observations that are arrays, here of shape (4,), got task.policy="
)
ENVIRONMENTS = {
    "unknown": (
        ["task=gym", "env_id=Nope-v1"],
        f"{MAKE} Nope-v1 and {{}} (Environment `Nope` doesn't exist. Did you mean: `Hopper`?)",
    ),
    "unknown module": (
        ["task=gym", "env_id=nowhere:Nope-v1"],
        f"{MAKE} nowhere:Nope-v1 and {{}} (No module named 'nowhere'. Environment registration via "
        "importing a module failed. Check whether 'nowhere' contains env registration and can be "
        "imported.)",
    ),
    "unknown parameter": (
        ["task=gym", "env_id=Walk-v0", "+task.env_kwargs.colour=1"],
        f"{MAKE} Walk-v0 and {{'colour': 1}} (Walk.__init__() got an unexpected keyword argument "
        "'colour' was raised from the environment creator for Walk-v0 with kwargs ({'colour': 1}))",
    ),
    "continuous actions": (
        ["task=gym", "env_id=Pendulum-v1"],
        "the action space must be Discrete, got Box(-2.0, 2.0, (1,), float32)",
    ),
    "no feature map": (
        ["task=gym", "env_id=CartPole-v1"],
        f"{ARRAYS}linear and task.features=None",
    ),
    "a table of arrays": (
        ["task=cartpole", "task.policy=tabular"],
        f"{ARRAYS}tabular and task.features=affine",
    ),
    "scales": (
        ["task=cartpole", "task.scale=[1,2]"],
        "task.scale must hold one number for each of an observation, 4, got [1.0, 2.0]",
    ),
    "no scales": (
        ["task=cartpole", "task.scale=[]"],
        "task.scale must hold one number for each of an observation, 4, got []",
    ),
    "no end": (
        ["task=gym", "env_id=Walk-v0", "+task.env_kwargs.fault=endless", "task.max_steps=50",
         "task.trained=[0,1]"],
        "episodes must end within max_steps = 50 steps, got one that has not: give the "
        "environment a time limit (max_episode_steps), or raise max_steps",
    ),
    "objective out of reach": (
        ["task=frozenlake", "task.objectives=[0.999]"],
        "objective must be within reach of gradient ascent, got 0.999 with the best found at "
        "0.7335 and an upper bound of 0.7371",
    ),
}  # fmt: skip


class TestMistakes:
    @pytest.mark.parametrize("app", [gradient_mse, group_size], ids=lambda app: app.__name__)
    def test_both_apps_know_the_tasks(self, app, tmp_path):
        refuses(app, RANGES["no environment"][1], tmp_path / "results", "task=gym")

    @pytest.mark.parametrize("mistake", RANGES)
    def test_ranges(self, mistake, tmp_path):
        overrides, message = RANGES[mistake]
        refuses(gradient_mse, message, tmp_path / "results", *overrides)

    @pytest.mark.parametrize("mistake", ENVIRONMENTS)
    def test_environments(self, mistake, tmp_path):
        overrides, message = ENVIRONMENTS[mistake]
        few = () if "task=frozenlake" in overrides else ("task.num_copies=2", "task.num_prompts=4")
        refuses(gradient_mse, message, tmp_path / "results", *overrides, *few)

    def test_an_environment_that_ignores_its_seed(self):
        """Not by its whole line: the message shows two observations, of no seed."""
        with pytest.raises(ValueError, match=r"^the environment must honour its seed, but two "):
            _ = task("task=gym", "env_id=Moody-v0", "task.features=affine").snapshots

    def test_groups_that_no_pool_holds_twice(self, tmp_path):
        refuses(
            gradient_mse,
            "group_size must be at most half of task.num_outputs=32, got 64",
            tmp_path / "results",
            *GYM,
            *FEW,
        )
