"""Data sets of reasoning-gym, where it is installed; and what our side does with any data set."""

from types import SimpleNamespace

import pytest

from ustat_grpo.inputs import extras
from ustat_grpo.lm.questions import reasoning_gym
from ustat_grpo.lm.questions.reasoning_gym import ReasoningGym


class Sums:
    """A data set of one, whose judge raises at words."""

    def __init__(self, size, seed, largest=9):
        assert largest > 0, "largest must be positive"
        self.entries = [
            {"question": f" {number}+{seed}? ", "answer": str(number + seed), "metadata": {}}
            for number in range(size)
        ] + [{"question": "who?", "answer": None, "metadata": {}}]

    def __iter__(self):
        return iter(self.entries)

    def score_answer(self, answer, entry):
        return 1.0 if int(answer) == int(entry["answer"]) else 0.01


@pytest.fixture
def library(monkeypatch):
    def create_dataset(name, size, seed, **config):
        if name != "sums":
            raise ValueError(f"Dataset '{name}' not registered")
        return Sums(size, seed, **config)

    made = SimpleNamespace(create_dataset=create_dataset)
    monkeypatch.setattr(reasoning_gym, "from_extra", lambda name: made)


def test_questions_are_asked_word_for_word(library):
    questions = ReasoningGym("sums", 2, seed=3).questions()
    assert [each.text for each in questions] == ["0+3?", "1+3?", "who?"]
    assert [each.answer for each in questions] == ["3", "4", "(none)"]
    assert questions[1].columns["entry"]["answer"] == "4" and questions[1].kind == "prompt"
    assert questions[1].place == "sums, question 1"


def test_its_own_judge_and_what_makes_it_raise(library, caplog):
    """Would catch: an answer that ends the run, or that is left out of its group."""
    gym = ReasoningGym("sums", 2)
    entry = gym.questions()[1].columns["entry"]
    scores = gym.rewards([" 1\n", "2", "one"], entry=[entry] * 3, prompts=None)
    assert scores == [1.0, 0.01, 0.0]
    assert "1 of 3 answers made the judge raise: worth 0" in caplog.text


@pytest.mark.parametrize(
    ("name", "config", "reason"),
    [
        ("products", {}, "'products' with {} (ValueError: Dataset 'products' not registered)"),
        ("sums", {"largest": 0}, "(AssertionError: largest must be positive"),
        ("sums", {"smallest": 0}, "(TypeError: "),
    ],
)
def test_mistakes(library, name, config, reason):
    with pytest.raises(ValueError, match="dataset must be one of reasoning-gym") as error:
        ReasoningGym(name, 2, config=config)
    assert reason in str(error.value)


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    def missing(name):
        raise ImportError("no module")

    monkeypatch.setattr(extras, "import_module", missing)
    with pytest.raises(ValueError, match=r"reasoning-gym must be installed .*\.\[reasoning\]"):
        ReasoningGym("gcd", 2)


def test_gcd_of_the_library():
    pytest.importorskip("reasoning_gym", reason="needs the extra reasoning")
    gym = ReasoningGym("gcd", 3, seed=1, config={"max_value": 20})
    for question in gym.questions():
        entry = question.columns["entry"]
        assert gym.rewards([question.answer, "no"], entry=[entry, entry])[0] == 1.0
