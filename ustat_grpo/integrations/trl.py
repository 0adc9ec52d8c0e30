"""TRL's GRPO trainer that logs the noise of its gradient and the group size that it asks for.

Needs the extra `trl`. See docs/trl.md.
"""

import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ustat_grpo.inputs.checks import integer, real
from ustat_grpo.inputs.extras import MissingExtraError
from ustat_grpo.integrations.trained_policy import TrainedPolicy, evaluating
from ustat_grpo.lm.language_model import Prompts, Rollouts
from ustat_grpo.lm.scores.layers import trained_layers
from ustat_grpo.lm.scores.output_sample import (
    MIN_GROUPS,
    UnmeasurableModelError,
    measurable,
    measured_outputs,
)
from ustat_grpo.noise import OutputSample, estimate_noise
from ustat_grpo.noise.groups import MIN_OUTPUTS, MIN_PROMPTS
from ustat_grpo.planner.curve import FREE_PROMPTS, Curve

try:
    import torch
    from accelerate.utils import gather_object
    from torch import Tensor
    from trl.trainer.grpo_trainer import GRPOTrainer
except ImportError as error:
    raise MissingExtraError("trl", error) from error

_STATE = "NoiseGRPOTrainer"
"""Where the state that TRL keeps with a checkpoint has what was measured."""

WAY_OUT = "docs/planner.md says how any trainer can feed the planner, by a file or by sign probes"


@dataclass(frozen=True)
class NoiseLogging:
    """When and how `NoiseGRPOTrainer` measures.

    Args:
        every: measure the first batch of outputs in every so many optimiser steps.
        keep: how many measured batches are joined into one estimate, the latest ones.
        level: coverage of the interval of the best group size.
        groups_per_pass: bounds the memory: so many groups at a time; None takes all that a process
            has. At least 2; only gradients of one pass are multiplied with each other.

    Raises:
        ValueError: if a number is out of its range.

    Examples:
        >>> from ustat_grpo.integrations.trl import NoiseLogging
        >>> noise = NoiseLogging(every=5, keep=4)
        >>> noise.every * noise.keep  # optimiser steps that an estimate looks back on
        20
    """

    every: int = 10
    keep: int = 8
    level: float = 0.95
    groups_per_pass: int | None = None

    def __post_init__(self) -> None:
        """Raise if a number is out of its range."""
        integer("every", self.every)
        integer("keep", self.keep)
        real("level", self.level, above=0.0, below=1.0)
        if self.groups_per_pass is not None:
            integer("groups_per_pass", self.groups_per_pass, at_least=MIN_GROUPS)


class _Failure(NamedTuple):
    """Why a process could not measure, and whether no other batch of this model can be measured."""

    reason: str
    refused: bool = False


class NoiseGRPOTrainer(GRPOTrainer):
    """A `GRPOTrainer` that logs c₁, c₂, c₃ of its gradient and the best group size.

    What is measured is the plain GRPO gradient ĝ = (1/B) Σ_b (1/G) Σ_i (Z_bi − Z̄_b⁽⁻ⁱ⁾) ∇ log
    π(y_bi∣x_b): of whole outputs, rewards not normalised, no clipping, no penalty, no dropout.
    `loss_type` and `scale_rewards` make no difference to it. Training is not changed: weights,
    optimiser and random numbers are, bit for bit, those without measurement. A measurement that
    fails, for want of memory or whatever else, ends no training: the trainer warns once, says why,
    and tries again at the next one. What was measured is kept with a checkpoint.

    Args:
        *args: as for `GRPOTrainer`.
        noise: when and how to measure; None measures nothing.
        **kwargs: as for `GRPOTrainer`.

    Raises:
        ValueError: if this training cannot be measured: fewer than 3 generations, a process without
            2 whole groups, images, tools, environments or rollouts of the user's own, masked
            truncated outputs, sharded parameters, or a model that
            `ustat_grpo.lm.score_norms` refuses, of which some are seen to be such before the first
            step only.

    Examples:
        A trainer of a tiny model, which `trainer.train()` would train; a run is in
        `docs/train_with_trl.py`.

        >>> from tempfile import TemporaryDirectory
        >>> from datasets import Dataset
        >>> from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
        >>> from trl import GRPOConfig
        >>> from ustat_grpo.integrations.trl import NoiseGRPOTrainer, NoiseLogging
        >>> tokens = {token: place for place, token in enumerate([*"0123456789+=", "<end>"])}
        >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
        >>> heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
        >>> config = Qwen2Config(vocab_size=13, eos_token_id=12, **sizes, **heads)
        >>> batch = {"num_generations": 4, "per_device_train_batch_size": 8}
        >>> with TemporaryDirectory() as folder:
        ...     trainer = NoiseGRPOTrainer(
        ...         model=Qwen2ForCausalLM(config),
        ...         processing_class=Qwen2Tokenizer(vocab=tokens, merges=[], eos_token="<end>"),
        ...         reward_funcs=lambda completions, **_: [len(text) for text in completions],
        ...         args=GRPOConfig(folder, use_cpu=True, bf16=False, report_to="none", **batch),
        ...         train_dataset=Dataset.from_dict({"prompt": ["1+2=", "3+4="]}),
        ...         noise=NoiseLogging(every=5),
        ...     )
        >>> trainer.num_generations  # at least 3, or the noise cannot be told: G
        4
    """

    args: Any  # a GRPOConfig
    model: Any
    num_generations: Any  # an integer, once TRL has checked it

    def __init__(self, *args: Any, noise: NoiseLogging | None = None, **kwargs: Any) -> None:
        """Build TRL's trainer, and check that it can be measured."""
        # The other arguments are TRL's own: a list of them would go out of date with it.
        super().__init__(*args, **kwargs)
        self._noise = noise
        self._noise_window: int | None = None
        self._noise_samples: deque[OutputSample] = deque(maxlen=noise.keep if noise else 0)
        self._noise_run: Any = None  # the state of the run that these belong to
        self._noise_warned = False
        if noise is not None:
            require_measurable(self)
            with _naming_way_out():
                trained_layers(self._trained_policy())

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        """Remember the reward of every function, gathered over processes."""
        self._reward_table: Tensor = super()._calculate_rewards(
            inputs, prompts, completions, completion_ids_list
        )
        return self._reward_table

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        """Measure what was generated, before TRL shuffles it and while the policy is still it."""
        batch = super()._generate_and_score_completions(inputs)
        if self._noise is not None and self.model.training:
            if self._noise_run is not self.state:
                self._begin_noise(self._noise)
            window = self.state.global_step // self._noise.every
            if window != self._noise_window:
                self._noise_window = window
                self._measure_and_log(self._noise, batch)
        return batch

    def _begin_noise(self, noise: NoiseLogging) -> None:
        """Take up what a checkpoint has kept, or begin anew."""
        state: Any = self.state
        self._noise_run, step = state, state.global_step
        self._noise_samples.clear()
        # A run that is resumed in mid-window goes on to the next one, whatever has become of the
        # samples: of this window's first batch none is left.
        self._noise_window = step // noise.every if step % noise.every else None
        kept = state.stateful_callbacks.get(_STATE)
        if kept is None:
            return
        try:
            samples = [OutputSample(**each) for each in kept["attributes"]["samples"]]
            self._noise_window = int(kept["attributes"]["window"])
        except Exception as error:
            self._warn(f"samples of a checkpoint could not be read: {error!r}")
        else:
            self._noise_samples.extend(samples)

    def _measure_and_log(self, noise: NoiseLogging, batch: dict[str, Any]) -> None:
        """Measure a batch and log what it says together with those before; never end a training.

        Every process takes part in the gathering, whatever has befallen its own measurement.

        Raises:
            ValueError: before the first step, if the model is one that cannot be measured.
        """
        refusal = None
        try:
            of_processes = gather_object(self._attempt(noise, batch))
            failures = [each for each in of_processes if isinstance(each, _Failure)]
            if any(each.refused for each in failures) and self.state.global_step == 0:
                refusal = next(each.reason for each in failures if each.refused)
            elif failures:
                self._warn(failures[0].reason)
            self._log_noise(
                noise, [each for each in of_processes if isinstance(each, OutputSample)]
            )
        except Exception as error:
            self._warn(repr(error))
        if refusal is not None:
            raise ValueError(f"{refusal}; {WAY_OUT}")

    def _attempt(
        self, noise: NoiseLogging, batch: dict[str, Any]
    ) -> list[OutputSample] | list[_Failure]:
        """Return the sample of this process, or why there is none: its memory is free again."""
        try:
            return self._measured(noise, batch)
        except UnmeasurableModelError as error:
            return [_Failure(str(error), refused=True)]
        except Exception as error:
            return [_Failure(repr(error))]

    def _warn(self, reason: str) -> None:
        """Say once, on one process, that the noise could not be measured."""
        if self._noise_warned or not self.accelerator.is_main_process:
            return
        self._noise_warned = True
        warnings.warn(
            f"noise could not be measured at step {self.state.global_step}, training goes on "
            f"without (this is said once): {reason}",
            stacklevel=2,
        )

    def _log_noise(self, noise: NoiseLogging, of_processes: list[OutputSample]) -> None:
        """Log what all processes have measured, together with the batches before."""
        if of_processes:
            self._noise_samples.append(OutputSample.joined(of_processes))
        kept = [_fields(sample) for sample in self._noise_samples]
        attributes = {"window": self._noise_window, "samples": kept}
        state: Any = self.state
        state.stateful_callbacks[_STATE] = {"args": {}, "attributes": attributes}
        if self._noise_samples:
            metrics = noise_metrics(
                OutputSample.joined(self._noise_samples),
                group_size=self.num_generations,
                budget=self.args.generation_batch_size,
                level=noise.level,
            )
            for name, value in metrics.items():
                self._metrics["train"][name].append(value)

    def _measured(self, noise: NoiseLogging, batch: dict[str, Any]) -> list[OutputSample]:
        """Return the sample of this process; none if too few outputs have a reward."""
        rollouts = _rollouts(batch, self.num_generations)
        rewards = self._own_rewards(len(batch["prompt_ids"]))
        if len(measurable(rewards)) < MIN_GROUPS:
            return []
        policy, of_pass = self._trained_policy(), noise.groups_per_pass
        with evaluating(policy.model), self.compute_loss_context_manager():
            return [measured_outputs(policy, rollouts, rewards, groups_per_pass=of_pass)]

    def _own_rewards(self, count: int) -> Float[Tensor, "B G"]:
        """Return Σ_k w_k Z_k of this process's outputs; NaN where no function gave a reward."""
        first = self.accelerator.process_index * count
        table = self._reward_table[first : first + count]
        rewards = (table * self.reward_weights.to(table.device)).nansum(dim=1)
        rewards = rewards.masked_fill(table.isnan().all(dim=1), torch.nan)
        return rewards.unflatten(0, (-1, self.num_generations))

    def _trained_policy(self) -> TrainedPolicy:
        """Return the model as a policy, without what accelerate and PEFT wrap around it."""
        model: Any = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        return TrainedPolicy(
            model.get_base_model() if hasattr(model, "get_base_model") else model,
            end_token=self.eos_token_ids[0],
            temperature=self.temperature,
        )


def noise_metrics(
    sample: OutputSample, *, group_size: int, budget: int, level: float
) -> dict[str, float]:
    """Return what is logged of measured outputs; infinite numbers are left out.

    With fewer than 8 prompts, or where no reward differs from others of its group, that is
    `groups/dead` alone.

    Args:
        sample: the measured outputs.
        group_size: G, whose error is compared with that of the best group size.
        budget: N = BG of a batch, which bounds the best group size.
        level: coverage of the interval of the best group size.
    """
    groups = sample.groups
    alive = groups.totals(groups.centred**2) > 0
    metrics = {"groups/dead": float(np.mean(~alive))}
    signal = groups.centred**2 * sample.score_norms
    if len(alive) < MIN_PROMPTS or not signal.any():
        return metrics
    estimate = estimate_noise(sample, level=level)
    metrics |= {
        "noise/prompt": estimate.prompt,
        "noise/oracle": estimate.oracle,
        "noise/residual": estimate.residual,
        "group_size/optimal": estimate.optimal.value,
        "group_size/optimal_low": estimate.optimal.low,
        "group_size/optimal_high": estimate.optimal.high,
    }
    if estimate.residual > 0:  # else no best group size is known
        curve = Curve(estimate.components(), FREE_PROMPTS, largest=budget)
        metrics["group_size/excess"] = float(curve.relative(group_size)) - 1
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def require_measurable(trainer: Any) -> None:
    """Raise unless the outputs of a trainer are such that its noise can be measured.

    Raises:
        ValueError: see `NoiseGRPOTrainer`.
    """
    args, size = trainer.args, trainer.num_generations
    if size < MIN_OUTPUTS:
        raise ValueError(
            f"num_generations must be at least {MIN_OUTPUTS} to tell c₂ from c₃, got {size}"
        )
    outputs = args.per_device_train_batch_size * args.steps_per_generation
    if outputs % size or outputs < MIN_GROUPS * size:
        raise ValueError(
            "per_device_train_batch_size times steps_per_generation must be a multiple of "
            f"num_generations = {size}, and at least {MIN_GROUPS} times that, so that every "
            f"process has whole groups, got {outputs}"
        )
    unsupported = {
        "images (a model with a processor)": trainer._is_vlm,
        "tools": bool(trainer.tools),
        "environment_factory": trainer.environment_factories is not None,
        "rollout_func": trainer.rollout_func is not None,
        "mask_truncated_completions": trainer.mask_truncated_completions,
    }
    if found := [name for name, given in unsupported.items() if given]:
        raise ValueError(
            f"outputs must be plain text of which every token is trained, got {', '.join(found)}; "
            f"{WAY_OUT}"
        )
    deepspeed = trainer.accelerator.state.deepspeed_plugin
    if trainer.is_fsdp_enabled or (deepspeed is not None and deepspeed.zero_stage == 3):
        kind = "FSDP" if trainer.is_fsdp_enabled else "DeepSpeed ZeRO-3"
        raise ValueError(f"parameters must be whole on every process, got {kind}; {WAY_OUT}")


@contextmanager
def _naming_way_out() -> Iterator[None]:
    """Say how else noise can be measured, if the model is refused."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{error}; {WAY_OUT}") from error


def _fields(sample: OutputSample) -> dict[str, list[Any]]:
    """Return the arrays of a joined sample as lists, which JSON keeps to the last bit."""
    arrays = {each.name: getattr(sample, each.name) for each in fields(sample)}
    return {name: array.tolist() for name, array in arrays.items()}


def _rollouts(batch: dict[str, Tensor], group_size: int) -> Rollouts:
    """Return what TRL generated, prompt by prompt; by which probabilities is not known."""
    outputs, mask = (
        batch[name].unflatten(0, (-1, group_size)) for name in ("completion_ids", "completion_mask")
    )
    return Rollouts(
        Prompts(batch["prompt_ids"][::group_size], batch["prompt_mask"][::group_size].bool()),
        outputs,
        mask.bool(),
        log_probs=torch.full(outputs.shape, torch.nan, device=outputs.device),
    )
