"""The forms of TRL against TRL's own trainers, which are handed the rewards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("trl", reason="needs the extra trl")

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from support.trl_trainers import OLD_NAMES, PROMPTS, save_policy
from ustat_grpo.estimators import LIBRARIES

pytestmark = pytest.mark.filterwarnings(OLD_NAMES)

NAN = np.nan
TABLES = [
    [[1.0, 0.0], [5.0, NAN]],
    [[1.0, 0.25], [0.5, 2.0]],
    [[1.0, 0.0], [NAN, NAN]],
    [[3.0, 1.0], [1.0, 1.0]],
]
FORMS = {
    "trl_grpo": (GRPOTrainer, GRPOConfig, {"scale_rewards": "group"}),
    "trl_grpo_batch": (GRPOTrainer, GRPOConfig, {"scale_rewards": "batch"}),
    "trl_dr_grpo": (GRPOTrainer, GRPOConfig, {"scale_rewards": "none"}),
    "trl_rloo": (RLOOTrainer, RLOOConfig, {"normalize_advantages": False, "beta": 0.0}),
    "trl_rloo_normalised": (RLOOTrainer, RLOOConfig, {"normalize_advantages": True, "beta": 0.0}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy"))


def test_every_form_of_trl_is_compared():
    assert FORMS.keys() == {name for name in LIBRARIES if name.startswith("trl_")}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.filterwarnings("ignore:All reward functions returned None")
def test_advantages_are_those_of_trl(name, folder, tmp_path):
    """Lone, missing and equal rewards too. Would catch: a lone output within TRL's deviation."""
    table: list[float] = []

    def rewards(completions, **_):
        return [None if np.isnan(z) else z for z in table]

    trainer_kind, config, options = FORMS[name]
    args = config(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=2,
        report_to="none",
        **options,
    )
    data = Dataset.from_dict({"prompt": PROMPTS})
    trainer = trainer_kind(model=str(folder), reward_funcs=rewards, args=args, train_dataset=data)
    prompts = [{"prompt": text} for text in (PROMPTS[0],) * 2 + (PROMPTS[1],) * 2]
    for groups in TABLES:
        table[:] = np.ravel(groups).tolist()
        theirs = trainer._generate_and_score_completions(prompts)["advantages"].numpy()
        ours = LIBRARIES[name].estimator.advantages(np.array(groups)).ravel()
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6, err_msg=str(groups))
    assert abs(theirs).max() > 0.1  # the last table has a signal
