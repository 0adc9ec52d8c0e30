"""The arithmetic task, a token an action: the same problems and rewards as for language models."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded

from ustat_grpo.arithmetic import OperandRanges
from ustat_grpo.arithmetic.tokens import END, PAD, decode, encode
from ustat_grpo.environments.arithmetic import ArithmeticEnv
from ustat_grpo.lm import Rollouts, arithmetic_questions
from ustat_grpo.lm.questions.questions import Questions

NAME = "ustat_grpo.environments.registration:ustat_grpo/Arithmetic-v0"
SMALL = OperandRanges(sums=(1, 9), factors=(2, 4), divisors=(2, 4), quotients=(2, 4))


@cache
def environment(max_tokens=6):
    return gymnasium.make(NAME, num_problems=20, ranges=SMALL, max_tokens=max_tokens).unwrapped


def write(env, tokens, seed=0):
    """Act until the episode ends, and return the rewards, the tokens used and whether it ended."""
    env.reset(seed=seed)
    rewards, over = [], False
    for token in tokens:
        _, reward, over, truncated, _ = env.step(token)
        assert not truncated
        rewards.append(reward)
        if over:
            break
    return rewards, tuple(tokens[: len(rewards)]), over


def solution(env, seed=0):
    env.reset(seed=seed)
    return [*encode(str(env.problem.answer)), END]


@pytest.mark.parametrize("seed", range(12))
def test_the_answer_is_rewarded_at_its_end(seed):
    env = environment()
    tokens = solution(env, seed)
    assert write(env, tokens, seed) == ([0.0] * (len(tokens) - 1) + [1.0], tuple(tokens), True)


def test_rewards_are_those_of_exact_match(rng):
    """Smallest wrong answer caught: padding skipped, no end token asked for, digits after it."""
    env, outputs, seeds, rewards = environment(4), [], [], []
    for seed in range(60):
        right = solution(env, seed)
        others = [[*right[:-1], PAD, END], [PAD, *right], [*right[:-1], 2, END], right[:-1], [END]]
        for tokens in (right, *others, rng.integers(19, size=4).tolist()):
            padded = [*tokens, *rng.integers(2, 19, size=4).tolist()]  # what is left does not count
            gained, used, over = write(env, padded, seed)
            assert over and sum(gained) == gained[-1]
            outputs.append(used)
            seeds.append(env.problems.index(env.problem))
            rewards.append(sum(gained))
    tokens = torch.full((len(outputs), 1, 4), PAD)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    for row, used in enumerate(outputs):
        tokens[row, 0, : len(used)] = torch.tensor(used)
        mask[row, 0, : len(used)] = True
    questions, asked = Questions(env.problems), torch.tensor(seeds)
    rollouts = Rollouts(questions.prompts, tokens, mask, torch.zeros(tokens.shape))
    assert questions.exact_match(rollouts, asked)[:, 0].tolist() == rewards
    assert 0.1 < np.mean(rewards) < 0.9


def test_prompts_are_those_of_the_language_models():
    """Same problems, same tokens; the held-out questions of the same seed."""
    _, held_out = arithmetic_questions(5, 20, rng=np.random.default_rng(4))
    env = ArithmeticEnv(20, 4)
    assert env.problems == tuple(held_out.problems)
    assert int(env.action_space.n) == held_out.tokenizer.vocabulary_size
    shown = zip(held_out.prompts.tokens, held_out.prompts.real, strict=True)
    prompts = {tuple(t[r].tolist()) for t, r in shown}
    seen = set()
    for seed in range(200):
        observation, _ = env.reset(seed=seed)
        seen.add(tuple(observation[: np.count_nonzero(observation)].tolist()))
    assert seen == prompts


def test_an_observation_is_prompt_output_and_padding():
    env = environment()
    observations = [env.reset(seed=3)[0]]
    prompt = encode(env.problem.text.replace(" ", "") + "=")
    output = [9, PAD, 2, END]
    observations += [env.step(token)[0] for token in output]
    for number, observation in enumerate(observations):
        shown = prompt + output[:number]
        assert observation in env.observation_space and observation.dtype == np.int64
        assert observation.tolist() == shown + [PAD] * (len(observation) - len(shown))
    longest = max(len(each.text.replace(" ", "")) + 1 for each in env.problems)
    assert len(observations[0]) == longest + env.max_tokens


def test_an_output_ends_at_its_end_token_or_at_the_limit():
    """Would catch: a limit off by one, an unfinished answer that is rewarded."""
    env = environment(4)
    for tokens, length in (([2] * 6, 4), ([2, 2, END, 2], 3), ([END, 2], 1), ([2, 2, 2, END], 4)):
        rewards, _, over = write(env, tokens)
        assert over and rewards == [0.0] * length
    seed = next(s for s in range(99) if len(solution(env, s)) == 3)
    short = environment(2)
    digits = solution(short, seed)[:2]
    assert write(short, digits, seed) == ([0.0, 0.0], tuple(digits), True)
    with pytest.raises(ResetNeeded, match="the output has ended"):
        short.step(2)


def test_a_reset_draws_every_problem_alike():
    """Smallest wrong answer caught: one of 20 problems drawn with probability 0.04 or 0.06."""
    env = environment()
    env.reset(seed=0)
    count = np.zeros(20)
    for _ in range(8000):
        env.reset()
        count[env.problems.index(env.problem)] += 1

    def z(prob):
        return np.abs(count / 8000 - prob) / np.sqrt(prob * (1 - prob) / 8000)

    assert z(1 / 20).max() <= 4
    assert z(1 / 20 + 0.01).max() > 4 and z(1 / 20 - 0.01).max() > 4


def test_a_problem_shows_as_text():
    env = gymnasium.make(NAME, render_mode="ansi")
    env.reset(seed=0)
    prompt = env.unwrapped.problem.text.replace(" ", "") + "="
    assert env.render() == prompt
    for token in encode("62"):
        env.step(token)
    assert env.render() == prompt + "62"
    env.step(END)
    assert env.render() == prompt + "62"
    assert decode(encode(prompt)) == prompt


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_problems": 7}, "num_problems must be a multiple of 5 for equal shares, got 7"),
        ({"num_problems": 0}, "num_problems must be an integer of at least 1, got 0"),
        ({"problem_seed": -1}, "problem_seed must be an integer of at least 0, got -1"),
        ({"max_tokens": 0}, "max_tokens must be an integer of at least 1, got 0"),
        ({"render_mode": "human"}, "render_mode must be None or 'ansi', got 'human'"),
        ({"ranges": SMALL}, r"ranges must hold 20 distinct multiplication problems"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ArithmeticEnv(**arguments)


@pytest.mark.parametrize("action", [19, -1, 2.0, None])
def test_what_is_no_token_is_refused(action):
    env = environment()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action must be an integer in \[0, 19\), got"):
        env.step(action)


def test_a_step_needs_a_reset():
    env = ArithmeticEnv(5, render_mode="ansi")
    for attempt in (lambda: env.step(2), env.render, lambda: env.problem):
        with pytest.raises(ResetNeeded, match="call reset before the first step"):
            attempt()


def test_importing_the_environments_needs_no_torch():
    """Would catch: token constants that are imported from where tensors are made."""
    program = "import ustat_grpo.environments.registration, sys; print('torch' in sys.modules)"
    command = [sys.executable, "-W", "error", "-c", program]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "False"
