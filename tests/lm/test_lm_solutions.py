"""Solutions that no sample can be: their π(y*∣x) would not be the mean of the reward."""

import numpy as np
import pytest
import torch

from support.lm_problems import END, MAX_TOKENS, OUTPUTS, PROMPTS, Output, answers, generator, tiny
from ustat_grpo import Grpo
from ustat_grpo.lm.exact import (
    expected_accuracy,
    objective_gradient,
    require_possible,
    solution_probs,
)
from ustat_grpo.lm.questions.rewards import ExactMatch
from ustat_grpo.lm.sampling import sample_groups
from ustat_grpo.lm.scores.known_solutions import brute_force_errors, norm_moments
from ustat_grpo.lm.scores.output_pool import draw_pool
from ustat_grpo.lm.scoring import Answers
from ustat_grpo.lm.task import Task, require_solutions

NEVER: list[list[Output]] = [
    [(2, END), (3,), (0, END)],  # one without its end token
    [(2, END), (END, 3), (0, END)],
    [(2, END), (END, END), (0, END)],
    [(2, END), (), (0, END)],
]
"""The second solution of these cannot be sampled, however many tokens outputs may have."""


@pytest.mark.parametrize("right", NEVER)
@pytest.mark.parametrize("function", [solution_probs, expected_accuracy, objective_gradient])
def test_solutions_that_cannot_be_sampled_are_refused(function, right):
    wrong = str(list(right[1])).replace("[", r"\[").replace("]", r"\]")
    message = rf"end with their only end token, 1, .* got {wrong} for question 1, \[3\]"
    with pytest.raises(ValueError, match=message):
        function(tiny(), answers(right))


@pytest.mark.parametrize(
    "max_tokens",
    [1, pytest.param(2, marks=pytest.mark.slow), 3],  # two are between the ends
)
def test_possible_is_what_some_sample_is(max_tokens):
    """Outputs of at most three tokens, all 85 of them, against those that were ever sampled."""
    rng = generator(1)
    drawn = sample_groups(tiny(), PROMPTS[:1], 40_000, max_tokens=max_tokens, rng=rng)
    rows = zip(drawn.outputs[0], drawn.mask[0], strict=True)
    sampled = {tuple(output[real].tolist()) for output, real in rows}
    for length in range(4):
        for code in range(4**length):
            output = tuple(code // 4**place % 4 for place in range(length))
            given = Answers(
                PROMPTS[:1],
                torch.tensor([0]),
                torch.tensor([[*output, *[0] * (4 - length)]]),
                torch.tensor([[place < length for place in range(4)]]),
            )
            try:
                require_possible(tiny(), given, max_tokens)
                assert output in sampled
            except ValueError:
                assert output not in sampled


def test_what_may_lack_the_end_token_is_as_long_as_the_longest():
    """There is a limit at which all are sampled; no limit suits (2,) and (3, END)."""
    for output in OUTPUTS:
        require_possible(tiny(), answers([output] * 3))
    require_possible(tiny(), answers([(2, 3), (2, END), (END,)]))
    with pytest.raises(ValueError, match=r"within 2 tokens, or have 2 without one, got \[2\]"):
        require_possible(tiny(), answers([(2,), (3, END), (END,)]))


def test_what_stands_in_the_padding_does_not_count():
    """Neither is an end token there one too many, nor does it end what does not end."""
    possible, endless = (answers([(2, END), (3, 3), last]) for last in ((END,), (2,)))

    def check(given):
        tokens = given.tokens.masked_fill(~given.mask, END)
        require_possible(tiny(), Answers(PROMPTS, given.prompt, tokens, given.mask))

    check(possible)
    with pytest.raises(ValueError, match=r"got \[2\] for question 2"):
        check(endless)


def test_no_solution_is_refused():
    given = answers([(END,)] * 3)[:0]
    with pytest.raises(ValueError, match="solutions must hold at least one, got none"):
        expected_accuracy(tiny(), given)
    with pytest.raises(ValueError, match=r"within 1 tokens, .* got \[\] for question 0"):
        expected_accuracy(tiny(), answers([()] * 3))


def pool(reward, max_tokens, prompts=PROMPTS):
    draw_pool(tiny(), Task(prompts, reward, max_tokens), 32, rng=generator())


def norms(reward, max_tokens, prompts=PROMPTS):
    norm_moments(tiny(), Task(prompts, reward, max_tokens), 32, rng=generator())


def errors(reward, max_tokens, prompts=PROMPTS):
    task = Task(prompts, reward, max_tokens)
    brute_force_errors(tiny(), task, {"grpo": Grpo()}, 2, num_replications=2, rng=generator())


@pytest.mark.parametrize("measure", [pool, norms, errors])
def test_solutions_must_fit_what_is_sampled(measure):
    """Would catch: V = π(y*∣x) of an output that is cut off, or goes on, in every sample."""
    reward = ExactMatch(answers([(2, END), (0, 3), (END,)]))
    measure(reward, MAX_TOKENS)
    message = r"within {0} tokens, or have {0} without one, got \[{1}\] for question {2}, \[{3}\]"
    with pytest.raises(ValueError, match=message.format(1, "2, 1", 0, "2, 3, 2, 2")):
        measure(reward, 1)
    with pytest.raises(ValueError, match=message.format(3, "0, 3", 1, "3")):
        measure(reward, 3)
    with pytest.raises(ValueError, match="max_tokens must be an integer of at least 1, got 0"):
        measure(reward, 0)
    with pytest.raises(ValueError, match="prompts must be those of the 3 solutions"):
        measure(reward, MAX_TOKENS, PROMPTS[:2])


@pytest.mark.parametrize("measure", [norms, errors])
def test_rewards_that_know_no_solution_are_refused(measure):
    """Would catch: outputs sampled, and then no value to compare them with."""
    message = "reward must know the one right output to each question, got function"
    with pytest.raises(ValueError, match=message):
        measure(lambda rollouts, questions: rollouts.log_probs.sum(dim=-1), MAX_TOKENS)


@pytest.mark.parametrize("max_tokens", [1, 2, 3])
def test_of_a_possible_solution_the_value_is_the_mean_reward(max_tokens):
    """|z| ≤ 4 over 40 000 samples; of (3, 3) with three tokens allowed it is far beyond."""
    model, size = tiny(), 40_000
    solutions = answers([(3, 3) if max_tokens > 1 else (3,)] * 3)
    rng = generator(max_tokens)
    rollouts = sample_groups(model, PROMPTS, size, max_tokens=max_tokens, rng=rng)
    rewards = ExactMatch(solutions)(rollouts, torch.arange(3)).mean(dim=1)
    value = solution_probs(model, solutions)
    z = ((rewards - value) / (value * (1 - value) / size).sqrt()).abs().numpy()
    if max_tokens < 3:
        require_solutions(model, Task(PROMPTS, ExactMatch(solutions), max_tokens))
        assert z.max() <= 4
    else:
        assert np.min(z) > 4
        with pytest.raises(ValueError, match="within 3 tokens"):
            require_solutions(model, Task(PROMPTS, ExactMatch(solutions), max_tokens))
