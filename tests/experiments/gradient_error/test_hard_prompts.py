from dataclasses import replace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from experiments.gradient_error import hard_prompts
from figures import hard_prompts as figure
from support.apps import configuration
from ustat_grpo import Moments, laws
from ustat_grpo.lm.models.checkpoints import save_policy
from ustat_grpo.lm.models.transformer import Transformer, TransformerShape
from ustat_grpo.lm.questions.questions import CONTEXT_LENGTH, TOKENIZER
from ustat_grpo.pools.measured_moments import exact_match_moments


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    shape = TransformerShape(
        TOKENIZER.vocabulary_size, CONTEXT_LENGTH, width=16, num_layers=1, hidden_width=16
    )
    save_policy(Transformer(shape), tmp_path / "beginner.safetensors")
    return tmp_path


def moments(value, wrong=1.0, right=1.0) -> Moments:
    """Questions solved with these chances; scores of wrong and right outputs have these norms."""
    value = np.atleast_1d(np.asarray(value, dtype=float))
    norms, failed = np.full((len(value), 32), wrong), np.ones((len(value), 32), dtype=bool)
    return exact_match_moments(value, np.full(len(value), right), norms, failed, 0.0).moments


class TestCompare:
    def test_equal_norms_and_no_gradient_give_the_line_of_the_figure(self):
        """Would catch: G for G − 1, or the error of the oracle in GRPO's place."""
        exact = moments([0.05, 0.3])
        flat = replace(exact, gradient_norm_squared=np.zeros(2))
        found = hard_prompts.compare(flat, 4)
        assert found["ratio"].to_numpy() == pytest.approx((1 - flat.value) * 4 / 3, rel=1e-12)
        assert found["crossover"].to_numpy() == pytest.approx(1 / flat.value, rel=1e-12)
        assert found["score_norm_ratio"].to_numpy() == pytest.approx([1, 1])

    def test_ratio_is_one_at_the_crossover(self):
        exact = moments([0.2, 0.2])
        below = hard_prompts.compare(exact, 2).iloc[0]
        size = round(below["crossover"])
        assert below["crossover"] > 2 and below["ratio"] > 1
        assert hard_prompts.compare(exact, size + 1).iloc[0]["ratio"] < 1

    def test_large_wrong_scores_leave_no_crossover(self):
        """Corollary 5 without its assumption: m = V(1−V)(s₁ − s₀) below −Vs/2."""
        found = hard_prompts.compare(moments([0.6, 0.6], wrong=10.0, right=0.1), 64).iloc[0]
        assert np.isinf(found["crossover"]) and found["ratio"] > 1
        assert found["score_norm_ratio"] == pytest.approx(100)


class TestRun:
    def test_table_and_figure(self, folder):
        config = configuration(
            "hard_prompts",
            f"policy.folder={folder}",
            "policy.skills=[beginner]",
            "task.num_questions=5",
            "num_outputs=32",
            "group_size=[4,16]",
        )

        data = hard_prompts.run(OmegaConf.to_object(config))
        assert list(data) == hard_prompts.COLUMNS
        assert len(data) == 10 and set(data["group_size"]) == {4, 16}
        assert list(data["kind"][:5]) == list(hard_prompts.KINDS)
        assert data["ratio"].gt(0).all()
        (axes,) = figure.build(data).axes
        labels = axes.get_legend_handles_labels()[1]
        assert set(labels) == {"$G = 4$", "$G = 16$"}

    def test_refuses(self):
        with pytest.raises(ValueError, match=r"task.reward must be exact_match, got accuracy"):
            OmegaConf.to_object(configuration("hard_prompts", "task.reward=accuracy_and_format"))
        with pytest.raises(ValueError, match=r"policy must be small, got hf"):
            OmegaConf.to_object(configuration("hard_prompts", "policy=hf", "policy.path=model"))


def test_laws_are_those_of_the_library():
    exact = moments([0.1, 0.9], wrong=2.0)
    found = hard_prompts.compare(exact, 8)["ratio"].to_numpy()
    expected = laws.mse.grpo(exact, group_size=8) / laws.mse.vanilla(exact, group_size=8)
    assert found == pytest.approx(expected)
