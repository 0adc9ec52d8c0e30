"""Transformers on disk: what is read is what was written, and what is wrong is said."""

import json
import stat
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from support.lm_problems import PROMPTS, SOLUTIONS, tiny
from ustat_grpo.lm import Transformer, TransformerShape
from ustat_grpo.lm.exact import expected_accuracy, solution_probs
from ustat_grpo.lm.models import checkpoints
from ustat_grpo.lm.models.checkpoints import SKILLS, load_policy, save_policy, shipped_policy
from ustat_grpo.lm.questions.questions import CONTEXT_LENGTH, TOKENIZER, arithmetic_questions


def written(path, *, metadata=None, without=(), **changes):
    """A file with some tensors left out, or others in their place."""
    model = tiny()
    weights = {name: each for name, each in model.state_dict().items() if name not in without}
    stated = {"shape": json.dumps(asdict(model.shape)), "end_token": "1"}
    given = stated if metadata is None else stated | metadata
    kept = {name: text for name, text in given.items() if text is not None}
    safetensors.torch.save_file(weights | changes, path, kept)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tied", [False, True])
def test_round_trip(tied, dtype, tmp_path):
    """Bit for bit: shape, end token, weights and logits, in the precision they were written in."""
    model = tiny(5, tied=tied)
    with torch.no_grad():
        for weight in model.parameters():  # now no float32 number any more
            weight.div_(3)
    model = model.to(dtype)
    path = tmp_path / "some" / "folder" / "policy.safetensors"
    save_policy(model, path)
    again = load_policy(path, dtype=dtype)
    assert again.shape == model.shape
    for (name, ours), (other, theirs) in zip(
        model.named_parameters(), again.named_parameters(), strict=True
    ):
        assert name == other and ours.dtype == theirs.dtype == dtype and theirs.requires_grad
        assert torch.equal(ours, theirs)
    logits = [each(PROMPTS.tokens, PROMPTS.real)[0] for each in (model, again)]
    assert torch.equal(*logits)
    assert (again.head.weight is again.tokens.weight) == tied


def test_shared_weights_stay_shared(tmp_path):
    """They are written once; a step on one is a step on the other, as before."""
    path = tmp_path / "policy.safetensors"
    save_policy(tiny(tied=True), path)
    assert "head.weight" not in safetensors.torch.load_file(path)
    model = load_policy(path)
    with torch.no_grad():
        model.tokens.weight.add_(1)
    assert torch.equal(model.head.weight, model.tokens.weight)
    assert len(list(model.parameters())) == len(list(tiny(tied=True).parameters()))


def test_the_end_token_is_kept(tmp_path):
    path = tmp_path / "policy.safetensors"
    save_policy(Transformer(TransformerShape(4, 8, 8, 1, 2, 16), end_token=3), path)
    assert load_policy(path).end_token == 3


def test_single_precision_is_what_one_gets_unasked(tmp_path):
    path = tmp_path / "policy.safetensors"
    save_policy(tiny(), path)
    model = load_policy(path)
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    close = solution_probs(model, SOLUTIONS).double()
    torch.testing.assert_close(close, solution_probs(tiny(), SOLUTIONS), rtol=1e-5, atol=0)


def test_saving_leaves_the_model_alone(tmp_path):
    model = tiny(tied=True)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    save_policy(model, tmp_path / "policy.safetensors")
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.head.weight is model.tokens.weight


def test_what_could_not_be_written_leaves_the_old_file(tmp_path, monkeypatch):
    """Neither a half-written policy nor the file it was written to is left."""
    path = tmp_path / "policy.safetensors"
    save_policy(tiny(1), path)

    def broken(file, _content):
        file.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", broken)
    with pytest.raises(OSError, match="disk full"):
        save_policy(tiny(2), path)
    assert list(tmp_path.iterdir()) == [path]
    assert torch.equal(load_policy(path, dtype=torch.float64).norm.weight, tiny(1).norm.weight)


def test_the_name_appears_with_the_whole_file_only(tmp_path, monkeypatch):
    path, seen = tmp_path / "policy.safetensors", []
    genuine = Path.write_bytes

    def watched(file, content):
        genuine(file, content)
        seen.append(path.exists())

    monkeypatch.setattr(Path, "write_bytes", watched)
    save_policy(tiny(), path)
    assert seen == [False] and path.is_file()
    assert path.stat().st_mode & stat.S_IRUSR


def test_a_newer_policy_takes_the_place_of_an_older_one(tmp_path):
    path = tmp_path / "policy.safetensors"
    for model in (tiny(1), tiny(2, width=4)):
        save_policy(model, path)
    assert load_policy(path).shape == tiny(2, width=4).shape


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "none.safetensors"
    with pytest.raises(ValueError, match=r"path must be a safetensors file, got .*none.*no such"):
        load_policy(path)
    with pytest.raises(ValueError, match="no such file"):
        load_policy(tmp_path)


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_what_is_no_safetensors_file_is_refused(size, tmp_path):
    """Empty, cut off in the header or the weights, or something else altogether."""
    path = written(tmp_path / "policy.safetensors")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="path must be a safetensors file, got"):
        load_policy(path)
    path.write_text("{}" * 100)
    with pytest.raises(ValueError, match="path must be a safetensors file, got"):
        load_policy(path)


@pytest.mark.parametrize(
    "metadata",
    [
        {"shape": None},
        {"shape": None, "end_token": None},
        {"end_token": None},
        {"end_token": "last"},
        {"shape": "no json"},
        {"shape": "[1, 2]"},
        {"shape": '{"vocabulary_size": 4, "depth": 3}'},
        {"shape": "{}"},
        {"shape": '{"vocabulary_size": -4}'},
    ],
)
def test_a_file_of_others_is_refused(metadata, tmp_path):
    """A safetensors file whose metadata are not ours, or are of another version."""
    path = written(tmp_path / "policy.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match="path must be a file that save_policy wrote, got"):
        load_policy(path)


def test_a_file_without_metadata_is_refused(tmp_path):
    path = tmp_path / "policy.safetensors"
    safetensors.torch.save_file(tiny().state_dict(), path)
    with pytest.raises(ValueError, match="path must be a file that save_policy wrote, got"):
        load_policy(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"without": ["norm.weight"]}, r'Missing key\(s\).*"norm\.weight"'),
        ({"more": torch.ones(2)}, r'Unexpected key\(s\).*"more"'),
        ({"norm.weight": torch.ones(5)}, r"size mismatch for norm\.weight"),
        ({"without": ["tokens.weight"]}, r'Missing key\(s\).*"tokens\.weight"'),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, message, tmp_path):
    path = written(tmp_path / "policy.safetensors", **change)
    with pytest.raises(ValueError, match=rf"weights in .* must fit its Transformer.*{message}"):
        load_policy(path)


def test_a_tied_file_without_its_embedding_is_refused(tmp_path):
    path, model = tmp_path / "policy.safetensors", tiny(tied=True)
    weights = model.state_dict()
    del weights["head.weight"], weights["tokens.weight"]
    metadata = {"shape": json.dumps(asdict(model.shape)), "end_token": "1"}
    safetensors.torch.save_file(weights, path, metadata)
    with pytest.raises(ValueError, match=r"weights in .* must fit its TransformerShape"):
        load_policy(path)


@pytest.mark.parametrize("skill", ["expert", "", "Beginner", "../beginner"])
def test_an_unknown_skill_is_refused(skill):
    with pytest.raises(ValueError, match="skill must be one of beginner, intermediate, advanced"):
        shipped_policy(skill)


def test_a_package_without_its_policies_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_FOLDER", tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"beginner\.safetensors \(no such file\)"):
        shipped_policy("beginner")


def test_shipped_policies_are_found_by_skill(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_FOLDER", tmp_path)
    for place, skill in enumerate(SKILLS):
        save_policy(tiny(place), tmp_path / f"{skill}.safetensors")
    for place, skill in enumerate(SKILLS):
        found = shipped_policy(skill, dtype=torch.float64)
        assert torch.equal(found.tokens.weight, tiny(place).tokens.weight)


@pytest.mark.skipif(
    not checkpoints._FOLDER.is_dir(), reason="ustat_grpo/lm/policies is not there yet"
)
@pytest.mark.parametrize("skill", SKILLS)
def test_the_shipped_policies_are_those_of_the_questions(skill):
    model = shipped_policy(skill)
    assert model.shape.vocabulary_size == TOKENIZER.vocabulary_size
    assert model.context_length == CONTEXT_LENGTH
    assert model.end_token == TOKENIZER.end_token
    assert all(each.isfinite().all() for each in model.parameters())


@pytest.mark.skipif(
    not checkpoints._FOLDER.is_dir(), reason="ustat_grpo/lm/policies is not there yet"
)
def test_the_shipped_policies_are_of_rising_accuracy():
    """On 200 questions, by the exact probability of the right answer."""
    questions, _ = arithmetic_questions(200, 5, rng=np.random.default_rng(0))
    accuracies = [expected_accuracy(shipped_policy(skill), questions.solutions) for skill in SKILLS]
    assert accuracies == sorted(accuracies)
    assert accuracies[0] > 0.02 and accuracies[-1] > 1.5 * accuracies[0]
