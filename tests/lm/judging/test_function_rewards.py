"""Rewards by functions of users, called as trl calls them."""

import sys

import numpy as np
import pytest
import torch

from ustat_grpo.lm import CharacterTokenizer, FunctionReward, Rollouts
from ustat_grpo.lm.judging.function_rewards import load_function

TOKENIZER = CharacterTokenizer()
TEXTS = [["42", "7"], ["1", "1"]]


def rollouts():
    tokens = [TOKENIZER.outputs([text])[0].tolist() for group in TEXTS for text in group]
    longest = max(map(len, tokens))
    outputs = torch.tensor([each + [0] * (longest - len(each)) for each in tokens])
    outputs = outputs.view(2, 2, longest)
    return Rollouts(TOKENIZER.prompts(["6*7=", "1="]), outputs, outputs != 0, outputs * 0.0)


def rewards_by(function, questions=(0, 1)):
    columns = [{"answer": "42", "weight": 2, "prompt": "no column"}, {"answer": "1", "weight": 3}]
    reward = FunctionReward(function, ["a", "b"], columns, TOKENIZER, "mine:f")
    return reward(rollouts(), torch.tensor(questions))


def test_it_is_called_as_trl_calls_it():
    """Would catch: columns that are not repeated, tokens with padding, arguments by place."""
    seen = []

    def function(prompts, completions, completion_ids, answer, weight, trainer_state, **beside):
        seen.append((prompts, completions, completion_ids, answer, weight, trainer_state))
        beside["log_extra"]("column", [1])
        beside["log_metric"]("name", 1.0)
        assert set(beside) == {"log_extra", "log_metric"}
        return [w * float(c == a) for c, a, w in zip(completions, answer, weight, strict=True)]

    assert rewards_by(function).tolist() == [[2.0, 0.0], [3.0, 3.0]]
    ids = [[TOKENIZER.outputs([text])[0].tolist() for text in group] for group in TEXTS]
    assert seen[0] == (["a", "a"], ["42", "7"], ids[0], ["42", "42"], [2, 2], None)
    assert seen[1][1:3] == (["1", "1"], ids[1])


def test_questions_say_whose_columns():
    returned = rewards_by(lambda weight, **_: weight, questions=(1, 0))
    assert returned.tolist() == [[3.0, 3.0], [2.0, 2.0]]


@pytest.mark.parametrize(
    "values", [[None, 1], [float("nan"), 1], (None, np.float32(1)), torch.tensor([torch.nan, 1])]
)
def test_no_reward_is_nan(values):
    assert rewards_by(lambda **_: values).isnan().tolist() == [[True, False]] * 2


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda **_: [1], "must return 2 rewards, one an output, got 1"),
        (lambda **_: None, "must return 2 rewards, one an output, got None"),
        (lambda **_: 0.5, "must return 2 rewards, one an output, got 0.5"),
        (lambda **_: ["a", 1], "must return numbers or None, got 'a'"),
        (lambda **_: 1 / 0, "must return rewards, raised ZeroDivisionError: division by zero"),
        (lambda answer: [1, 1], "must return rewards, raised TypeError: "),
    ],
)
def test_mistakes_name_function_and_prompt(function, message):
    with pytest.raises(ValueError) as error:
        rewards_by(function)
    assert str(error.value).startswith(f"mine:f at prompt 0 {message}")


class TestNames:
    @pytest.fixture
    def here(self, tmp_path, monkeypatch):
        (tmp_path / "rewards_of_mine.py").write_text(
            "def half(completions, **_):\n    return [0.5] * len(completions)\n\n"
            "async def late(**_):\n    return []\n\nNUMBER = 3\n"
        )
        (tmp_path / "broken_of_mine.py").write_text("1 / 0\n")
        monkeypatch.chdir(tmp_path)
        yield
        sys.modules.pop("rewards_of_mine", None)

    def test_modules_of_the_folder_are_found(self, here):
        before = list(sys.path)
        assert rewards_by(load_function("rewards_of_mine:half")).tolist() == [[0.5, 0.5]] * 2
        assert sys.path == before

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("rewards_of_mine", "--reward must be MODULE:FUNCTION, got 'rewards_of_mine'"),
            (":half", "--reward must be MODULE:FUNCTION, got ':half'"),
            ("rewards_of_mine:none", "(AttributeError: module 'rewards_of_mine' has no attribute"),
            ("not_there:f", "(ModuleNotFoundError: No module named 'not_there')"),
            ("broken_of_mine:f", "(ZeroDivisionError: division by zero)"),
            ("rewards_of_mine:NUMBER", "must name a function that is not async, got"),
            ("rewards_of_mine:late", "must name a function that is not async, got"),
        ],
    )
    def test_mistakes(self, here, name, message):
        with pytest.raises(ValueError) as error:
            load_function(name, "--reward")
        assert message in str(error.value) and str(error.value).startswith("--reward must ")
