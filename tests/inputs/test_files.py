"""Files are written whole or not at all, and nothing but a file of one's own is replaced."""

from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from ustat_grpo.inputs.files import require_another_file, write_whole
from ustat_grpo.lm.models.checkpoints import save_policy
from ustat_grpo.lm.models.transformer import Transformer, TransformerShape
from ustat_grpo.lm.training.training import save_state
from ustat_grpo.noise import OutputSample
from ustat_grpo.noise.sample_files import save_sample


def write(path, text="new"):
    write_whole(path, lambda partial: partial.write_text(text))


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def full_disk():
    """Let no file grow beyond some bytes, as on a disk that has no room for more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestWriteWhole:
    @pytest.mark.parametrize("target", ["there.csv", "elsewhere/not_yet.csv"])
    def test_writes_through_symbolic_links(self, tmp_path, target):
        """Also one that points at nothing yet. Would catch: a link replaced by a file."""
        (tmp_path / "there.csv").write_text("old")
        link, second = tmp_path / "link.csv", tmp_path / "second.csv"
        link.symlink_to(tmp_path / target)
        second.symlink_to("link.csv")
        write(second)
        assert second.is_symlink() and link.is_symlink()
        assert (tmp_path / target).read_text() == "new" and not (tmp_path / target).is_symlink()

    def test_replaces_no_folder_device_or_pipe(self, tmp_path):
        """Nor through a link. Would catch: as root, a /dev/null that is a file from then on."""
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "link").symlink_to("/dev/null")
        names = {"folder": "a folder", "pipe": "a device or a pipe", "link": "a device or a pipe"}
        for name, kind in names.items():
            with pytest.raises(OSError, match=f"must be a regular file, got {kind}") as caught:
                write(tmp_path / name)
            assert caught.value.filename == str(tmp_path / name)
        assert Path("/dev/null").is_char_device()
        assert sorted(each.name for each in tmp_path.iterdir()) == sorted(names)

    def test_keeps_the_mode_of_what_is_replaced(self, tmp_path):
        """Would catch: what only its owner may read, open to all, also while it is written."""
        path, seen = tmp_path / "secret.csv", []
        path.write_text("old")
        path.chmod(0o640)
        write_whole(path, lambda partial: seen.append(mode_of(partial)) or partial.write_text("n"))
        assert mode_of(path) == 0o640 and seen == [0o600]

    def test_a_new_file_has_the_mode_of_the_umask(self, tmp_path):
        """Whatever its writer would give it."""
        before = os.umask(0o027)
        try:
            write(tmp_path / "data.csv")
            write_whole(tmp_path / "own.csv", lambda partial: partial.chmod(0o600))
        finally:
            os.umask(before)
        assert mode_of(tmp_path / "data.csv") == mode_of(tmp_path / "own.csv") == 0o640

    def test_what_is_write_protected_stays(self, tmp_path, monkeypatch):
        """Root may write everywhere: it is asked what anybody else is told."""
        path = tmp_path / "mine.csv"
        path.write_text("old")
        monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
        with pytest.raises(PermissionError, match=r"mine\.csv"):
            write(path)
        assert path.read_text() == "old"

    @pytest.mark.parametrize("name", ["policy.safetensors", "state.pt", "s.npz", "s.csv", "s.txt"])
    def test_a_full_disk_leaves_what_was_there(self, tmp_path, full_disk, name, rng):
        """The error names the file. Would catch: errors that are no OSError, or half a file."""
        path = tmp_path / name
        path.write_text("old")
        sample = OutputSample.from_scores(
            list(rng.normal(size=(8, 3, 4))), list(rng.normal(size=(8, 3)))
        )
        writers = {
            "policy.safetensors": lambda: save_policy(
                Transformer(TransformerShape(8, 8, width=8, num_layers=1, num_heads=1)), path
            ),
            "state.pt": lambda: save_state({"theta": torch.zeros(1000)}, path),
            "s.txt": lambda: write(path, "new" * 1000),
        }
        with pytest.raises(OSError, match="File too large") as caught:
            writers.get(name, lambda: save_sample(sample, path))()
        assert caught.value.filename == str(path)
        assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]

    def test_the_longest_names(self, tmp_path):
        """Would catch: an unfinished file whose name is longer than a name may be."""
        path = tmp_path / ("n" * 251 + ".csv")
        write(path)
        assert path.read_text() == "new"


class TestRequireAnotherFile:
    def test_one_file_under_several_names(self, tmp_path, monkeypatch):
        """Would catch: a comparison of names, by which a page overwrites its measurements."""
        read = tmp_path / "own.csv"
        read.write_text("mine")
        (tmp_path / "link.csv").symlink_to(read)
        os.link(read, tmp_path / "hard.csv")
        monkeypatch.chdir(tmp_path)
        for name in (read, "own.csv", "link.csv", "hard.csv", f"../{tmp_path.name}/own.csv"):
            with pytest.raises(ValueError, match=r"^--html must be another file than .*own\.csv"):
                require_another_file("--html", Path(name), [Path("other.csv"), read])
        require_another_file("--html", Path("page.html"), [read, Path("other.csv")])
        with pytest.raises(ValueError, match="must be another file"):  # not there yet
            require_another_file("--html", Path("new.npz"), [tmp_path / "new.npz"])


def test_arrays_survive(tmp_path):
    """Would catch: a state that is cut or changed on its way through memory."""
    save_state({"theta": torch.arange(5.0)}, tmp_path / "state.pt")
    read = torch.load(tmp_path / "state.pt", weights_only=True)["theta"]
    np.testing.assert_array_equal(read, np.arange(5.0))
