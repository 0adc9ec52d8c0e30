"""An object of another kind than is wanted is refused in a sentence, which names what would do."""

from __future__ import annotations

import re

import gymnasium as gym
import numpy as np
import pytest
import torch

from ustat_grpo import (
    Constant,
    Grpo,
    Practice,
    TrainingConfig,
    TugOfWar,
    environments,
    gradient_mse,
    lm,
    optimize,
)
from ustat_grpo.environments import EnvironmentCopies, frozen_lake, tabular_softmax
from ustat_grpo.inputs import checks

TUG = TugOfWar()
MDP = frozen_lake(("SF", "HG"), horizon=4)
POLICY = tabular_softmax(4, 4)
PROMPTS = lm.Prompts.of([[2, 3]], pad_token=0)
ESTIMATOR = "estimator must be an object with the method advantages, such as Grpo(), got "
SCHEDULE = "schedule must be an object with the method rates, such as Constant(0.1), got "
CONFIG = (
    "config must be a TrainingConfig, such as TrainingConfig(estimator=Grpo(), batch_size=8, ...), "
    "got "
)


def refuses(message, error=TypeError):
    return pytest.raises(error, match=f"^{re.escape(message)}")


def config(**changed):
    parts = {"estimator": Grpo(), "batch_size": 2, "group_size": 2, "num_iterations": 2}
    return TrainingConfig(**parts | {"schedule": Constant(0.1)} | changed)


def reward(rollouts, questions):
    return torch.zeros(rollouts.outputs.shape[:2])


def task(**changed):
    return lm.Task(**{"prompts": PROMPTS, "reward": reward, "max_tokens": 2} | changed)


def trained(model=None, *, rng=None, evaluate=len, **changed):
    """Call `lm.train`, which must refuse before its first step."""
    arguments = {"task": task(), "training": lm.ModelTraining(config())} | changed
    model = lm.shipped_policy("beginner") if model is None else model
    return lm.train(model, **arguments, rng=rng or lm.run_rng(0), evaluate=evaluate)


def ensemble(**changed):
    arguments = {
        "task": task(), "trainings": [lm.ModelTraining(config())], "rngs": [lm.run_rng(0)],
    } | changed  # fmt: skip
    return lm.train_ensemble(lm.shipped_policy("beginner"), **arguments, evaluate=len)


def test_instances_and_what_is_none():
    checks.instance("n", True, int, "3")  # a subclass will do
    with refuses("n must be an int, such as 3, got '3'"):
        checks.instance("n", "3", int, "3")
    with refuses("n must be a Constant, such as Constant(0.1), got Decay"):
        checks.instance("n", type("Decay", (), {"__repr__": lambda _: "Decay"})(), Constant,
                        "Constant(0.1)")  # fmt: skip


def test_methods_are_those_of_objects():
    """Would catch: a class in the place of its object, and an attribute that cannot be called."""
    checks.capable("f", len, "__call__", "len")
    checks.capable("f", Grpo(), "advantages", "Grpo()")
    for wrong in (None, Grpo, 3, "grpo"):
        with refuses(f"f must be callable, such as len, got {wrong!r}"):
            checks.capable("f", wrong, "__call__", "len")
    with refuses("f must be an object with the method real, such as g, got 3"):
        checks.capable("f", 3, "real", "g")


def test_sequences_become_lists():
    assert checks.sequence("s", range(3)) == [0, 1, 2]
    for wrong in (None, 5, np.array(5)):
        with refuses(f"s must be a sequence, got {wrong!r}", ValueError):
            checks.sequence("s", wrong)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        *(({"estimator": each}, f"{ESTIMATOR}{each!r}") for each in (None, "grpo", Grpo)),
        *(({"schedule": each}, f"{SCHEDULE}{each!r}") for each in (None, 0.1, Constant)),
        ({"projection": "box"}, "projection must be a Box, such as Box(-1.0, 1.0), got 'box'"),
        ({"practice": None}, "practice must be a Practice, such as Practice(), got None"),
    ],
)
def test_parts_of_a_configuration(changed, message):
    with refuses(message):
        config(**changed)


@pytest.mark.parametrize("checkpoints", [5, None])
def test_checkpoints_are_a_sequence(checkpoints):
    with refuses(f"checkpoints must be a sequence, got {checkpoints}", ValueError):
        config(checkpoints=checkpoints)


def test_clip_is_two_numbers():
    with refuses("clip must be a sequence, got 0.2", ValueError):
        Practice(clip=0.2)
    with refuses("clip must be two numbers, low and high, got [0.2]", ValueError):
        Practice(clip=(0.2,))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lm.ModelTraining(None), f"{CONFIG}None"),
        (lambda: lm.ModelTraining(config(), optimizer="adamw"), "optimizer must be an object with "
         "the method directions, such as AdamW(), got 'adamw'"),
        (lambda: task(reward=None), "reward must be callable, such as ExactMatch(solutions), got "
         "None"),
        (lambda: task(prompts=["1+1"]), "prompts must be a Prompts, such as Prompts.of([[2, 3]], "
         "pad_token=0), got ['1+1']"),
        (lambda: task(value=0.5), "value must be callable, such as lambda model, questions: ..., "
         "got 0.5"),
        (lambda: trained("gpt2"), "model must be an object with the method parameters, such as "
         "shipped_policy(\"intermediate\"), got 'gpt2'"),
        (lambda: trained(task=None), "task must be a Task, such as "),
        (lambda: trained(training=config()), "training must be a ModelTraining, such as "
         "ModelTraining(config), got TrainingConfig("),
        (lambda: trained(rng=np.random.default_rng(0)), "rng must be a torch.Generator, got "
         "Generator(PCG64)"),
        (lambda: trained(evaluate={}), "evaluate must be callable, such as "),
        (lambda: ensemble(trainings=[config()]), "training must be a ModelTraining, such as "),
        (lambda: ensemble(rngs=[np.random.default_rng(0)]), "rng must be a torch.Generator"),
    ],
)  # fmt: skip
def test_language_models(call, message):
    """The call itself refuses: a run would only begin when its first checkpoint is asked for."""
    with refuses(message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: optimize(TUG.bandit, Grpo(), theta0=TUG.theta(0.0), num_runs=2, rng=rng),
         f"{CONFIG}Grpo()"),
        (lambda rng: optimize(TUG, config(), theta0=TUG.theta(0.0), num_runs=2, rng=rng),
         "bandit must be a SoftmaxBandit, such as TugOfWar().bandit, got TugOfWar("),
        (lambda rng: gradient_mse(TUG.bandit, [Grpo()], [2], 2, replications=2, rng=rng),
         "snapshot must be a Snapshot, such as bandit.at(theta), got SoftmaxBandit("),
        (lambda rng: gradient_mse(TUG.at(TUG.theta(0.0)), {"grpo": Grpo}, [2], 2, replications=2,
                                  rng=rng),
         "estimators must be an object with the method advantages, such as Grpo(), got <class"),
        (lambda rng: environments.optimize_mdp(MDP, Grpo(), theta0=np.zeros(16), num_runs=2,
                                               rng=rng), f"{CONFIG}Grpo()"),
        (lambda rng: environments.optimize_mdp(TUG, config(), theta0=np.zeros(16), num_runs=2,
                                               rng=rng), "mdp must be a TabularMdp, such as "),
        (lambda rng: environments.gradient_errors(MDP, [Grpo()], [2], 2, replications=2, rng=rng),
         "snapshot must be a MdpSnapshot, such as environments.snapshot(mdp, policy, theta), got "),
    ],
)  # fmt: skip
def test_finite_problems(call, message):
    """Would catch: an AttributeError from some depth, or draws before the refusal."""
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    with refuses(message):
        call(rng)
    assert rng.bit_generator.state == before


def test_environments():
    rng, start = np.random.default_rng(0), np.zeros(4)
    policy = tabular_softmax(num_states=2, num_actions=2)
    with EnvironmentCopies("ustat_grpo/TugOfWar-v0", 1) as copies:
        for arguments, message in {
            (copies, policy, Grpo()): f"{CONFIG}Grpo()",
            (copies, None, config()): "policy must be an object with the method logits, such as ",
            ("CartPole-v1", policy, config()): "copies must be an EnvironmentCopies, such as ",
        }.items():
            with refuses(message):
                environments.train(*arguments, seeds=[0], theta0=start, rng=rng)


@pytest.mark.parametrize("name", ["CartPole-v9", "NoSuch-v0", "no_such_module:Maze-v0", "a b"])
def test_environments_that_nobody_has_registered(name):
    """Would catch: an error of Gymnasium's, which is no ValueError."""
    wanted = f"make must be the id of a registered environment, got {name!r} ("
    with refuses(wanted, ValueError) as caught:
        EnvironmentCopies(name)
    assert isinstance(caught.value.__cause__, gym.error.Error | ImportError)


def test_what_builds_no_environment():
    with refuses("make must be an id or a function that builds an environment, got 3", ValueError):
        EnvironmentCopies(3)
