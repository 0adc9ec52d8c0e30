"""Policies with the questions that they answer: the only place that asks which kind they are."""

from dataclasses import replace
from typing import Any

from experiments.tasks.language import (
    Arithmetic,
    HuggingFacePolicy,
    LanguageTask,
    Panel,
    Sets,
    TextTask,
)


def training_sets(task: LanguageTask, policy: Any) -> Sets:
    """Return the first policy with the task's train set and its held-out set.

    Raises:
        ValueError: if task and policy do not go together, or a file is missing or wrong.
    """
    if isinstance(policy, HuggingFacePolicy):
        from experiments.tasks.text import text_training_sets

        return text_training_sets(task, policy)
    (panel, *_) = panels(task, policy).values()
    assert isinstance(task, Arithmetic)  # `panels` refuses any other
    train, held_out = (
        replace(each, device=panel.prompts.tokens.device) for each in task.questions()
    )
    return Sets(
        panel._replace(prompts=train.prompts, reward=getattr(train, task.reward)),
        panel._replace(reward=held_out.exact_match),
    )


def panels(task: LanguageTask, policy: Any) -> dict[str, Panel]:
    """Return every policy with the task's questions, by panel name.

    Raises:
        ValueError: if task and policy do not go together, or a file is missing or wrong.
    """
    if isinstance(policy, HuggingFacePolicy):
        from experiments.tasks.text import text_panels

        return text_panels(task, policy)
    if isinstance(task, TextTask):
        raise ValueError(f"policy must be hf for task={task.name}, got {policy.name}")
    from ustat_grpo.lm.sampling import require_context

    _, on_cpu = task.questions()
    found = {}
    for name, model in policy.models().items():
        questions = replace(on_cpu, device=next(model.parameters()).device)
        reward = getattr(questions, task.reward)
        require_context(model, questions.prompts, task.max_tokens, "task.max_tokens")
        found[f"{task.name}: {name}"] = Panel(
            model, questions.prompts, reward, task.max_tokens, outputs_at_once=2**14
        )
    return found
