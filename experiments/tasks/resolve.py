"""From what a configuration names to one object with the verbs of every task."""

from collections.abc import Callable
from typing import Any

from experiments.tasks.bandits import ArithmeticChoice, Bandit, SuccessProbability, TugOfWarTask
from experiments.tasks.finite_subject import FiniteSubject
from experiments.tasks.kinds import for_kind
from experiments.tasks.language import Arithmetic, ReasoningGymTask, TextTask
from experiments.tasks.language_subject import LanguageSubject
from experiments.tasks.policies import PolicySource, PosedTask
from experiments.tasks.sequential import FrozenLake, Gym
from experiments.tasks.sequential_subject import EpisodeSubject, TableSubject
from experiments.tasks.subject import Subject, TrainedSubject


def subject(task: Any, policies: PolicySource | None = None) -> Subject:
    """Return the subject of an experiment: a task, and to a language task its policies.

    Raises:
        ValueError: if it is a task of which only one app knows what to do with it.
    """
    return for_kind(task, _SUBJECTS, "task must be one with policies that are compared")(
        task, policies
    )


def trained_subject(task: Any) -> TrainedSubject:
    """Return the subject of a sweep that trains.

    Raises:
        ValueError: if it is a task that has no starts, or a language task.
    """
    wanted = "task must be a bandit that is trained on, or an environment"
    return for_kind(task, _TRAINED, wanted)(task)


_TRAINED: dict[type, Callable[[Any], TrainedSubject]] = {
    ArithmeticChoice: FiniteSubject,
    Bandit: FiniteSubject,
    TugOfWarTask: FiniteSubject,
    FrozenLake: TableSubject,
    Gym: EpisodeSubject,
}
_SUBJECTS: dict[type, Callable[[Any, Any], Subject]] = {
    ArithmeticChoice: lambda task, _: FiniteSubject(task),
    Bandit: lambda task, _: FiniteSubject(task),
    TugOfWarTask: lambda task, _: FiniteSubject(task),
    SuccessProbability: lambda task, _: FiniteSubject(task),
    FrozenLake: lambda task, _: TableSubject(task),
    Gym: lambda task, _: EpisodeSubject(task),
    Arithmetic: lambda task, policies: LanguageSubject(PosedTask(task, policies)),
    TextTask: lambda task, policies: LanguageSubject(PosedTask(task, policies)),
    ReasoningGymTask: lambda task, policies: LanguageSubject(PosedTask(task, policies)),
}
