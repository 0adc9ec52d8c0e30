"""Small trainers on a tiny model, and one that measures the same by brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from trl import GRPOConfig

from support import local_models
from ustat_grpo.integrations.trl import NoiseGRPOTrainer, NoiseLogging
from ustat_grpo.noise import OutputSample

# TRL 1.16 switches gradient checkpointing by names that transformers 5 renamed.
OLD_NAMES = r"ignore:`(is_)?gradient_checkpointing\w*` is deprecated:FutureWarning"

GROUP_SIZE, BATCH_SIZE, STEPS = 4, 8, 5
PROMPTS = [
    f"{a}+{b}=" for a in (1, 22, 333) for b in (4, 50, 607, 8099, 90001, 123456)
]  # of unequal length


def by_letters(completions, **_):
    """A deterministic reward of three levels."""
    return [float(sum(map(ord, text)) % 3) for text in completions]


def by_length(completions, **_):
    """A second reward, which some outputs do not get."""
    return [None if "7" in text else float(len(text)) for text in completions]


def often_none(completions, **_):
    """No reward for a third of the outputs: groups are unequal, and one may be left out."""
    return [None if sum(map(ord, text)) % 3 == 1 else float(len(text) % 2) for text in completions]


def always_one(completions, **_):
    return [1.0 for _ in completions]


def save_policy(folder: Path) -> Path:
    """Save a model with dropout; return the folder."""
    model = local_models.tiny("qwen2", local_models.save_tokenizer(folder))
    model.config.attention_dropout = 0.2
    model.save_pretrained(folder)
    return folder


def trainer_of(
    folder: Path,
    noise: NoiseLogging | None,
    *,
    rewards=by_letters,
    kind: type[NoiseGRPOTrainer] = NoiseGRPOTrainer,
    **options,
) -> NoiseGRPOTrainer:
    """A trainer for five steps of eight prompts with four outputs each; it writes nothing."""
    defaults = {
        "output_dir": str(folder / "unused"),
        "use_cpu": True,
        "bf16": False,
        "per_device_train_batch_size": GROUP_SIZE * BATCH_SIZE // 2,
        "gradient_accumulation_steps": 2,
        "num_generations": GROUP_SIZE,
        "max_completion_length": 6,
        "max_steps": STEPS,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return kind(
        model=str(folder),
        reward_funcs=rewards,
        args=GRPOConfig(**(defaults | options)),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        eval_dataset=Dataset.from_dict({"prompt": PROMPTS[:4]}),
        noise=noise,
    )


def logged(trainer) -> list[dict[str, float]]:
    """Of every step, what was logged of the noise."""
    mine = ("noise/", "group_size/", "groups/")
    steps = [row for row in trainer.state.log_history if "loss" in row]
    return [{k: v for k, v in row.items() if k.startswith(mine)} for row in steps]


class Careless(NoiseGRPOTrainer):
    """Forgets to switch dropout off."""

    def _measured(self, noise, batch):
        found = super()._measured(noise, batch)
        torch.rand(1)
        return found


class Recording(NoiseGRPOTrainer):
    """Takes every output's score by autograd, one plain sequence at a time, when it is drawn.

    Of the last step only, which is the one that is compared.
    """

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        if self.state.global_step + 1 < self.args.max_steps:
            return batch
        table = self._reward_table.double() * self.reward_weights
        totals = table.nansum(dim=1)
        totals[table.isnan().all(dim=1)] = torch.nan
        scores, rewards = [], []
        for first in range(0, len(totals), GROUP_SIZE):
            rows = [row for row in range(first, first + GROUP_SIZE) if not totals[row].isnan()]
            if len(rows) >= 3:
                scores.append(np.stack([self._score(batch, row) for row in rows]))
                rewards.append(totals[rows].numpy())
        self.sample = OutputSample.from_scores(scores, rewards)
        return batch

    def _score(self, batch, row) -> np.ndarray:
        prompt, output = (
            batch[f"{name}_ids"][row][batch[f"{name}_mask"][row].bool()]
            for name in ("prompt", "completion")
        )
        tokens = torch.cat([prompt, output])[None]
        logits = self.model(input_ids=tokens, use_cache=False).logits[0] / self.args.temperature
        steps = logits[len(prompt) - 1 : -1].log_softmax(-1)
        total = steps.gather(-1, output[:, None]).sum()
        parts = torch.autograd.grad(total, [p for p in self.model.parameters() if p.requires_grad])
        return torch.cat([part.flatten() for part in parts]).double().numpy()
