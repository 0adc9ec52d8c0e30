"""Folders of models that are incomplete or damaged: one line that says what is wrong where."""

import json
import shutil
from pathlib import Path

import pytest

from support import local_models

pytest.importorskip("transformers", reason="needs the extra llm")

from ustat_grpo.lm.models.huggingface import load


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return local_models.save_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    """A copy of a good folder, to be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "broken"))


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


class TestBrokenFolders:
    REQUIREMENT = (
        "policy.path must be a folder with config.json, model.safetensors and tokenizer.json, got "
    )

    @pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
    def test_missing_file(self, broken, file):
        (broken / file).unlink()
        with pytest.raises(ValueError) as error:
            load(broken, name="policy.path")
        assert one_line(error) == f"{self.REQUIREMENT}{broken} (no {file})"

    def test_missing_folder(self, tmp_path):
        with pytest.raises(ValueError) as error:
            load(tmp_path / "none", name="policy.path")
        assert one_line(error) == f"{self.REQUIREMENT}{tmp_path / 'none'} (no such folder)"

    def test_missing_shard(self, broken):
        name = "model-00002-of-00002.safetensors"
        (broken / "model.safetensors").unlink()
        index = broken / "model.safetensors.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": {"a": name}}))
        with pytest.raises(ValueError, match=f"can be read, got .*{name}"):
            load(broken)

    @pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
    def test_pointer_in_the_place_of_a_file(self, broken, file):
        """A clone without Git LFS has such."""
        (broken / file).write_text("version https://git-lfs.github.com/spec/v1\nsize 12\n")
        with pytest.raises(ValueError, match=r"path must hold a .* that can be read, got") as error:
            load(broken)
        assert str(broken) in one_line(error)

    def test_weights_that_are_not_there(self, broken):
        """transformers would fill them in at random, with a warning."""
        files = pytest.importorskip("safetensors.torch")
        weights = files.load_file(broken / "model.safetensors")
        del weights["model.layers.1.mlp.up_proj.weight"]
        files.save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"\(1 weights are not there: model.layers.1.mlp.up"):
            load(broken)

    def test_tokenizer_of_a_larger_model(self, broken):
        local_models.save_tokenizer(broken, letters=local_models.LETTERS + "&_!")
        message = r"path must hold a tokenizer with at most the model's \d+ tokens, got .* with \d+"
        with pytest.raises(ValueError, match=message):
            load(broken)

    def test_config_of_no_language_model(self, broken):
        (broken / "config.json").write_text(json.dumps({"model_type": "no_such_model"}))
        with pytest.raises(ValueError, match="that can be read") as error:
            load(broken)
        one_line(error)

    def test_unknown_dtype_and_device(self, folder):
        with pytest.raises(ValueError, match=r"dtype must be one of float32, .* got 'float64'"):
            load(folder, dtype="float64")
        with pytest.raises(ValueError, match=r"device must be auto or one .* got 'tpu9'") as error:
            load(folder, device="tpu9")
        one_line(error)
