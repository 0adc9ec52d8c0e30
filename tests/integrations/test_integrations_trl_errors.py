"""What the trainer that logs its noise cannot measure, and what it says then."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import local_models

pytest.importorskip("trl", reason="needs the extra trl")

from support.trl_trainers import OLD_NAMES, save_policy, trainer_of
from ustat_grpo.integrations.trl import NoiseLogging, require_measurable

pytestmark = pytest.mark.filterwarnings(OLD_NAMES)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy"))


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"num_generations": 2}, "num_generations must be at least 3 .* got 2"),
            (
                {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1},
                "multiple of num_generations = 4, and at least 2 times that, .* got 4",
            ),
            ({"mask_truncated_completions": True}, "got mask_truncated_completions; docs/planner"),
        ],
    )
    def test_settings_that_cannot_be_measured(self, folder, options, said):
        with pytest.raises(ValueError, match=said):
            trainer_of(folder, NoiseLogging(), **options)
        trainer_of(folder, None, **options)  # nothing to measure, nothing to say

    @pytest.mark.parametrize(
        ("place", "value", "said"),
        [
            ("is_fsdp_enabled", True, "whole on every process, got FSDP; docs/planner.md"),
            ("tools", [print], "plain text .* got tools; docs/planner.md"),
            ("_is_vlm", True, "got images"),
            ("rollout_func", print, "got rollout_func"),
            ("environment_factories", {}, "got environment_factory"),
        ],
    )
    def test_what_cannot_be_built_here(self, folder, place, value, said):
        trainer = trainer_of(folder, None)
        setattr(trainer, place, value)
        with pytest.raises(ValueError, match=said):
            require_measurable(trainer)

    def test_a_model_with_other_modules(self, tmp_path):
        sinks = local_models.save_policy(tmp_path, kind="gpt_oss")
        with pytest.raises(ValueError, match=r"sinks of GptOssAttention.*docs/planner\.md"):
            trainer_of(sinks, NoiseLogging())

    def test_a_model_refused_at_the_first_measurement(self, folder):
        """A weight that is used twice is seen in the graph only; no step has been made yet."""
        trainer = trainer_of(folder, NoiseLogging())
        layers = trainer.model.model.layers
        layers[0].mlp.register_forward_hook(
            lambda module, args, output: output + args[0] * layers[1].mlp.up_proj.weight.mean()
        )
        with pytest.raises(ValueError, match=r"another use of .*up_proj.weight.*docs/planner\.md"):
            trainer.train()
        assert trainer.state.global_step == 0
        assert all(module.training for module in trainer.model.modules())

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"every": 0}, "every must be an integer of at least 1, got 0"),
            ({"keep": 0}, "keep must be an integer of at least 1, got 0"),
            ({"level": 1.0}, "level must be a finite number and above 0 and below 1, got 1.0"),
            ({"groups_per_pass": 1}, "groups_per_pass must be an integer of at least 2, got 1"),
        ],
    )
    def test_numbers_out_of_range(self, options, said):
        with pytest.raises(ValueError, match=said):
            NoiseLogging(**options)
