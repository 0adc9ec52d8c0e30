"""Which kinds of tasks an app knows: it says so once, by a table or a type, and refuses the others.

What every task can do is a verb of `experiments.tasks.subject`; here is what only some can do.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def for_kind(task: Any, known: Mapping[type, T], wanted: str) -> T:
    """Return the entry of a table by kinds that a task, or a policy, belongs to.

    Args:
        task: of a configuration.
        known: what an app does with each kind that it knows.
        wanted: the kinds in words, such as "task must be bandit or arithmetic".

    Raises:
        ValueError: if the app does not know the kind.
    """
    for kind, entry in known.items():
        if isinstance(task, kind):
            return entry
    raise ValueError(f"{wanted}, got {task.name}")


def of_kind(task: Any, kind: type[T], wanted: str) -> T:
    """Return a task, or a policy, as the one kind that an app knows.

    Raises:
        ValueError: if it is of another.
    """
    return for_kind(task, {kind: task}, wanted)
