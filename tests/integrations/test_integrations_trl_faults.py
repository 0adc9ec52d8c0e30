"""A monitor never harms what it watches: bad rewards, failed measurements, resumed runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("trl", reason="needs the extra trl")

from test_integrations_trl import NOISE, same, trained

from support.trl_trainers import OLD_NAMES, by_letters, logged, save_policy, trainer_of
from ustat_grpo.integrations import trl as module
from ustat_grpo.integrations.trl import NoiseLogging
from ustat_grpo.lm.scores import output_sample
from ustat_grpo.lm.scores.products import squared_norms

pytestmark = pytest.mark.filterwarnings(OLD_NAMES)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return save_policy(tmp_path_factory.mktemp("policy"))


def rewards_with(bad: float):
    """The usual rewards, but one output of every batch has another."""

    def rewards(completions, **_):
        found = by_letters(completions)
        return [bad, *found[1:]]

    return rewards


@pytest.mark.parametrize("bad", [
    np.inf, 1e30, *(pytest.param(other, marks=pytest.mark.slow) for other in (-np.inf, 1e20, -3e38))
])  # fmt: skip
def test_a_bad_reward_changes_nothing_about_the_training(folder, bad):
    """Would catch: a measurement that refuses it; the noise is measured all the same, in silence.

    TRL itself goes on with what it makes of such a reward.
    """
    rewards = rewards_with(bad)
    plain = trained(trainer_of(folder, None, rewards=rewards, max_steps=1))
    measuring = trainer_of(folder, NoiseLogging(), rewards=rewards, max_steps=1)
    ours = trained(measuring)
    assert torch.equal(ours[1], plain[1])
    for one, other in zip(ours[0], plain[0], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    found = logged(measuring)[0]
    assert found.keys() >= NOISE
    assert np.isfinite(list(found.values())).all()


@pytest.fixture(scope="module")
def plain(folder):
    """A run that measures nothing."""
    return trained(trainer_of(folder, None, max_steps=3))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        pytest.param(MemoryError(), marks=pytest.mark.slow),  # no bug and no error of torch either
        KeyError("bug"),
    ],
    ids=repr,
)
def test_a_failed_measurement_is_said_once_and_training_goes_on(folder, monkeypatch, error, plain):
    """Half-way through the backward pass. Would catch: hooks or a mode left behind."""
    calls = []

    def failing(parts, parameter):
        calls.append(parameter)
        if len(calls) % 3 == 0:
            raise error
        return squared_norms(parts, parameter)

    monkeypatch.setattr(output_sample, "squared_norms", failing)
    measuring = trainer_of(folder, NoiseLogging(every=2), max_steps=3)
    with pytest.warns(
        UserWarning, match="noise could not be measured at step 0.*said once"
    ) as said:
        ours = trained(measuring)
    assert same(plain, ours)
    assert len(calls) == 2 * 3  # at steps 0 and 2: it is tried again
    (message,) = (str(each.message) for each in said if "noise could not" in str(each.message))
    assert repr(error) in message
    assert all(part.training for part in measuring.model.modules())
    assert not any(found.keys() & NOISE for found in logged(measuring))


def test_an_interruption_is_none_of_its_business(folder, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "measured_outputs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer_of(folder, NoiseLogging(), max_steps=1).train()


def test_a_process_that_fails_still_takes_part_in_the_gathering(folder, monkeypatch):
    """Else the others wait for ever. What they have measured is logged."""
    gathered = []

    def of_two(own):
        gathered.append(own)
        return [module._Failure("out of memory elsewhere"), *own]

    monkeypatch.setattr(module, "gather_object", of_two)
    trainer = trainer_of(folder, NoiseLogging(), max_steps=1)
    with pytest.warns(UserWarning, match="out of memory elsewhere"):
        trainer.train()
    assert logged(trainer)[0].keys() >= NOISE
    monkeypatch.setattr(module, "measured_outputs", lambda *_, **__: 1 / 0)
    trainer = trainer_of(folder, NoiseLogging(), max_steps=1)
    with pytest.warns(UserWarning, match="out of memory elsewhere"):
        trainer.train()
    assert isinstance(gathered[-1][0], module._Failure) and len(gathered) == 2


def test_a_resumed_run_goes_on_where_it_was(folder, tmp_path):
    """The samples are there again to the last digit, and no window is measured twice.

    Would catch: samples that are lost, a second measurement in the middle of a window.
    """
    options = {"save_strategy": "steps", "save_steps": 2, "output_dir": str(tmp_path)}
    noise = NoiseLogging(every=3, keep=4)
    whole = trainer_of(folder, noise, **options)
    whole.train()
    resumed = trainer_of(folder, noise, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [bool(found) for found in logged(whole)] == [True, False, False, True, False]
    assert logged(resumed)[:2] == logged(whole)[:2]
    assert [bool(found) for found in logged(resumed)] == [True, False, False, True, False]
    kept, again = (trainer._noise_samples[0] for trainer in (whole, resumed))
    for name in ("rewards", "score_norms", "prompts", "gradient_norms", "gradient_products"):
        np.testing.assert_array_equal(getattr(again, name), getattr(kept, name))
    assert len(resumed._noise_samples) == 2


def test_a_checkpoint_without_samples_begins_at_the_next_window(folder, tmp_path):
    """One of plain TRL, or one that holds something else, which is said."""
    options = {"save_strategy": "steps", "save_steps": 2, "output_dir": str(tmp_path)}
    trainer_of(folder, None, max_steps=2, **options).train()
    resumed = trainer_of(folder, NoiseLogging(every=3), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [bool(found) for found in logged(resumed)] == [False, False, False, True, False]
    resumed.state.stateful_callbacks["NoiseGRPOTrainer"] = {"attributes": {"samples": [{}]}}
    with pytest.warns(UserWarning, match="samples of a checkpoint could not be read"):
        resumed._begin_noise(NoiseLogging(every=3))
