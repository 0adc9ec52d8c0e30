"""What is known without sampling, against sums over every output there is."""

from itertools import product

import numpy as np
import pytest
import torch

from support.lm_problems import (
    END,
    OUTPUTS,
    PROMPTS,
    RIGHT,
    SOLUTIONS,
    VOCABULARY,
    answers,
    every_output,
    matches,
    plain_log_prob,
    problem,
    tiny,
)
from ustat_grpo.lm.exact import (
    expected_accuracy,
    objective_gradient,
    solution_probs,
)
from ustat_grpo.lm.questions.rewards import ExactMatch
from ustat_grpo.lm.task import Task, require_solutions


def flat(gradient) -> np.ndarray:
    return torch.cat([part.flatten() for part in gradient]).numpy()


def test_the_enumeration_is_complete():
    """Σ_y π(y∣x) = 1 and Σ_y π(y∣x) W(y) = 0: the judge of all other tests is itself right."""
    _, known = problem()
    np.testing.assert_allclose(known.probs.sum(axis=1), 1, rtol=0, atol=1e-12)
    mean_score = np.einsum("pk,pkd->pd", known.probs, known.scores)
    np.testing.assert_allclose(mean_score, 0, rtol=0, atol=1e-12)
    assert len(OUTPUTS) == len(set(OUTPUTS)) == 13
    assert known.probs.min() < 0.01 < 0.3 < known.probs.max()


@pytest.mark.parametrize("rows_per_pass", [None, 1, 2])
def test_values_are_those_of_the_enumeration(rows_per_pass):
    model, known = problem()
    expected = (known.probs * matches()).sum(axis=1)
    found = solution_probs(model, SOLUTIONS, rows_per_pass=rows_per_pass)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)
    assert not found.requires_grad


def test_every_output_may_be_the_right_one():
    model, known = problem()
    for place, output in enumerate(OUTPUTS):
        found = solution_probs(model, answers([output] * 3))
        np.testing.assert_allclose(found.numpy(), known.probs[:, place], rtol=0, atol=1e-12)


def test_accuracy_is_the_mean_over_prompts():
    model, known = problem()
    expected = (known.probs * matches()).sum() / 3
    assert expected_accuracy(model, SOLUTIONS) == pytest.approx(expected, abs=1e-12)
    repeated = answers([RIGHT[0], *RIGHT], PROMPTS[[0, 0, 1, 2]])
    weights = np.array([2, 1, 1]) / 4
    again = weights @ (known.probs * matches()).sum(axis=1)
    assert expected_accuracy(model, repeated) == pytest.approx(again, abs=1e-12)


@pytest.mark.parametrize("rows_per_pass", [None, 1, 2])
def test_gradient_is_that_of_the_enumeration(rows_per_pass):
    """∇J = E Σ_y π W Z to 1e-12; mutants: without V, and with V²."""
    model, known = problem()
    expected = known.gradients(matches()).mean(axis=0)
    found = flat(objective_gradient(model, SOLUTIONS, rows_per_pass=rows_per_pass))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    value = (known.probs * matches()).sum(axis=1)
    without_value = np.einsum("pk,pkd->d", matches(), known.scores) / 3
    doubled = np.einsum("p,pk,pkd->d", value**2, matches(), known.scores) / 3
    for wrong in (without_value, doubled):
        assert np.abs(wrong - expected).max() > 0.5 * np.abs(expected).max()


@pytest.mark.parametrize("tied", [False, True])
def test_gradient_is_autograd_of_the_definition(tied):
    """∇ of the mean of π(y*∣x), one sequence at a time; also with shared weights."""
    model = tiny(3, tied=tied)
    values = [plain_log_prob(model, row, output).exp() for row, output in enumerate(RIGHT)]
    expected = torch.autograd.grad(sum(values) / 3, list(model.parameters()))
    found = flat(objective_gradient(model, SOLUTIONS))
    np.testing.assert_allclose(found, flat(expected), rtol=0, atol=1e-12)


def test_only_trained_parameters_have_a_gradient():
    model = tiny(1)
    model.positions.weight.requires_grad_(False)
    found = objective_gradient(model, SOLUTIONS)
    trained = [each for each in model.parameters() if each.requires_grad]
    assert [part.shape for part in found] == [each.shape for each in trained]


def test_an_impossible_solution_has_no_gradient():
    """π(y*∣x) underflows to 0: no NaN."""
    model = tiny()
    with torch.no_grad():
        model.head.weight.mul_(1e4)
    value = solution_probs(model, SOLUTIONS)
    assert (value == 0).any()
    assert np.isfinite(flat(objective_gradient(model, SOLUTIONS))).all()


@pytest.mark.parametrize("max_tokens", [1, 2, 3])
def test_solutions_are_those_that_can_be_sampled(max_tokens):
    """Of all 85 sequences of up to three tokens, those of the enumeration and no others."""
    model, _ = problem()
    sequences = [each for size in range(4) for each in product(range(VOCABULARY), repeat=size)]
    assert len(sequences) == 85
    possible = []
    for sequence in sequences:
        solutions = answers([(END,), sequence, (END,)])
        try:
            require_solutions(model, Task(PROMPTS, ExactMatch(solutions), max_tokens))
            possible.append(sequence)
        except ValueError as error:
            message = f"got {list(sequence)} for question 1, [3]"
            assert str(error).startswith("solutions must end with") and message in str(error)
    assert sorted(possible) == sorted(every_output(max_tokens))


def test_solutions_that_no_limit_suits_are_refused():
    """Two that do not end, of unequal length; else V(x) would not be what is sampled."""
    model, _ = problem()
    for refuse in (solution_probs, expected_accuracy, objective_gradient):
        with pytest.raises(ValueError, match=r"solutions must end .* got \[0\] for question 1"):
            refuse(model, answers([(END,), (0,), (0, 2)]))


def test_prompts_of_another_number_are_refused():
    model, _ = problem()
    message = "prompts must be those of the 3 solutions, one each, got 2"
    with pytest.raises(ValueError, match=message):
        require_solutions(model, Task(PROMPTS[:2], ExactMatch(SOLUTIONS), 2))
