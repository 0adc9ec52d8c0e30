"""Samples in files: what is written is read to the last bit, and what is no sample is refused."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from support.noise_cases import flat_sample
from ustat_grpo.noise import OutputSample, SignSample
from ustat_grpo.noise.sample_files import SUFFIXES, load_sample, save_sample

FIELDS = ("rewards", "score_norms", "prompts", "gradient_norms", "gradient_products")
HEADER = "prompt,reward,score_norm,gradient_norm,gradient_product"
ROWS = [f"{b},{i / 2},{1 + i},{0.5 + b},{b - 1.0}" for b in range(8) for i in range(3)]

every_format = pytest.mark.parametrize("suffix", SUFFIXES)


def sample_with(ids, batches=None) -> OutputSample:
    """Rewards that need all 17 digits, rows of prompts mixed."""
    rng = np.random.default_rng(0)
    plain = flat_sample(rng, [3, 5, 4, 3, 6, 3, 4, 5])
    mixed = rng.permutation(len(plain.rewards))
    order = np.argsort(np.unique(plain.prompts[mixed], return_index=True)[1])
    return OutputSample(
        rewards=plain.rewards[mixed] / 3,
        score_norms=plain.score_norms[mixed],
        prompts=np.asarray(ids)[plain.prompts[mixed]],
        gradient_norms=plain.gradient_norms[order],
        gradient_products=plain.gradient_products[order],
        batches=None if batches is None else np.asarray(batches)[order],
    )


def written(tmp_path, lines, suffix=".csv"):
    path = tmp_path / f"sample{suffix}"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def refused(path, message):
    with pytest.raises(ValueError, match=rf"^{re.escape(f'{path}: {message}')}") as caught:
        load_sample(path)
    assert "\n" not in str(caught.value)


def csv_with(tmp_path, row, cells):
    """A sample in which one row is another."""
    return written(tmp_path, [HEADER, *ROWS[:row], cells, *ROWS[row + 1 :]])


def json_rows():
    names = HEADER.split(",")
    return [dict(zip(names, map(float, row.split(",")), strict=True)) for row in ROWS]


class TestRoundTrip:
    """Would catch: a rounded digit, a prompt that swaps its gradient with another."""

    IDS = (
        list(range(8)),
        [-3, 2**62, 5, 0, 1, 9, 8, 7],
        ["7", "007", "a,b", 'quo"te', "two\nlines", " space ", "ünï 🙂", "1_0"],
        [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 1e-300],
    )

    @every_format
    @pytest.mark.parametrize("ids", IDS, ids=["numbers", "large", "texts", "reals"])
    @pytest.mark.parametrize("batches", [None, [0, 1] * 4, ["a", "b", "b", "a"] * 2])
    def test_of_outputs_is_exact(self, tmp_path, suffix, ids, batches):
        sample, path = sample_with(ids, batches), tmp_path / f"sample{suffix}"
        save_sample(sample, path)
        back = load_sample(path)
        assert isinstance(back, OutputSample)
        for name in FIELDS:
            wanted = getattr(sample, name)
            if name == "prompts" and isinstance(ids[0], float):
                wanted = wanted.astype(str)
            assert np.array_equal(getattr(back, name), wanted), name
        if batches is None:
            assert back.batches is None
        else:
            assert np.array_equal(back.batches, sample.batches)
        assert [path.name] == [each.name for each in tmp_path.iterdir()]

    @every_format
    def test_of_blocks_is_exact(self, tmp_path, suffix):
        sample = SignSample(np.random.default_rng(0).normal(size=(9, 3)) * [1e-30, 1, 1e200])
        path = tmp_path / f"blocks{suffix}"
        save_sample(sample, str(path))
        back = load_sample(str(path))
        assert isinstance(back, SignSample)
        assert np.array_equal(back.components, sample.components)

    def test_ids_of_any_kind_are_written_as_texts(self, tmp_path):
        """Would catch: a pickle in the archive, which nobody should load."""
        ids = np.empty(8, dtype=object)
        ids[:] = [f"p{i}" for i in range(8)]
        save_sample(sample_with(ids), tmp_path / "a.npz")
        back = load_sample(tmp_path / "a.npz")
        assert isinstance(back, OutputSample) and set(back.prompts) == set(ids)

    def test_a_failed_write_leaves_what_was_there(self, tmp_path, monkeypatch):
        path = written(tmp_path, ["old"], ".csv")
        sample = sample_with(range(8))
        monkeypatch.setattr("csv.writer", lambda *_, **__: None)
        with pytest.raises(AttributeError):
            save_sample(sample, path)
        assert path.read_text() == "old\n" and len(list(tmp_path.iterdir())) == 1

    def test_columns_in_any_order_a_mark_and_blank_lines(self, tmp_path):
        """What spreadsheets and pandas write: a byte order mark, blank lines at the end."""
        flipped = [",".join(reversed(row.split(","))) for row in [HEADER, *ROWS]]
        path = written(tmp_path, ["\ufeff" + flipped[0], *flipped[1:], "", ""])
        assert np.array_equal(load_sample(path).prompts, np.repeat(np.arange(8), 3))

    def test_json_rows_are_those_of_csv(self, tmp_path):
        """Would catch: values read by place, where keys may come in any order."""
        rows = [dict(reversed(row.items())) if i % 2 else row for i, row in enumerate(json_rows())]
        for row in rows:
            row["prompt"] = int(row["prompt"])
        path = written(tmp_path, [json.dumps(row) for row in rows], ".jsonl")
        other = load_sample(written(tmp_path, [HEADER, *ROWS]))
        for name in FIELDS:
            assert np.array_equal(getattr(load_sample(path), name), getattr(other, name))


class TestNames:
    def test_unknown_suffix(self, tmp_path):
        for act in (load_sample, lambda path: save_sample(sample_with(range(8)), path)):
            with pytest.raises(ValueError, match=r"must end in .npz, .csv, .jsonl, got '.txt'"):
                act(tmp_path / "sample.txt")

    @every_format
    def test_no_such_file(self, tmp_path, suffix):
        with pytest.raises(FileNotFoundError):
            load_sample(tmp_path / f"none{suffix}")

    @pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
    def test_empty_file(self, tmp_path, suffix):
        path = tmp_path / f"empty{suffix}"
        path.touch()
        refused(path, "must hold at least one row, got none")

    def test_header_alone(self, tmp_path):
        refused(written(tmp_path, [HEADER]), "must hold at least one row, got none")

    def test_unknown_columns(self, tmp_path):
        path = written(tmp_path, [HEADER + ",length", *(f"{row},7" for row in ROWS)])
        known = HEADER.replace(",", ", ")
        refused(path, f"columns must be {known} and perhaps batch, got also 'length'")

    def test_no_gradients(self, tmp_path):
        """The file that everybody has first: what is missing, what it is, where to read on."""
        path = written(tmp_path, [",".join(row.split(",")[:3]) for row in [HEADER, *ROWS]])
        message = f"columns must be {HEADER.replace(',', ', ')}, got none named 'gradient_norm', "
        refused(path, message + "'gradient_product'; gradient_norm is ‖ĝ_b‖²")
        with pytest.raises(ValueError, match=r"alone cannot tell c₁, docs/planner.md says"):
            load_sample(path)

    def test_another_missing_column(self, tmp_path):
        path = written(tmp_path, [",".join(row.split(",")[1:]) for row in [HEADER, *ROWS]])
        with pytest.raises(ValueError, match=r", got none named 'prompt'$"):
            load_sample(path)

    def test_columns_of_blocks_and_of_outputs(self, tmp_path):
        path = written(tmp_path, ["prompt_noise,oracle_noise,residual_noise,reward", "1,1,1,1"])
        refused(path, "columns must be prompt_noise, oracle_noise, residual_noise, got also")

    def test_a_column_twice(self, tmp_path):
        path = written(tmp_path, [HEADER + ",reward", *(f"{row},7" for row in ROWS)])
        refused(path, "columns must have different names, got prompt, reward")

    def test_archives(self, tmp_path):
        path = tmp_path / "a.npz"
        np.savez(path, rewards=np.ones(3))
        refused(path, "arrays must be rewards, score_norms, prompts, gradient_norms, gradient_p")
        np.savez(path, components=np.ones((4, 3)), extra=np.ones(3))
        refused(path, "arrays must be components, got also 'extra'")


class TestCells:
    @pytest.mark.parametrize("cell", ["", "high", "nan", "inf", "-Infinity", "1e999", "1;5"])
    @pytest.mark.parametrize("column", [1, 2, 3, 4])
    def test_a_finite_number_is_required(self, tmp_path, column, cell):
        cells = ROWS[4].split(",")
        cells[column] = cell
        name = HEADER.split(",")[column]
        message = f"line 6, column {name}: must be a finite number, got {cell!r}"
        refused(csv_with(tmp_path, 4, ",".join(cells)), message)

    @pytest.mark.parametrize("value", [np.nan, -np.inf, None, "high", [1.0], {}, 10**400])
    def test_also_in_json(self, tmp_path, value):
        """Python's reader takes the words NaN and Infinity, which are no JSON."""
        rows = json_rows()
        rows[4]["reward"] = value
        path = written(tmp_path, [json.dumps(row) for row in rows], ".jsonl")
        refused(path, "line 5, column reward: must be a finite number, got ")

    @pytest.mark.parametrize("column", ["gradient_norm", "gradient_product"])
    def test_what_differs_within_a_prompt(self, tmp_path, column):
        cells = ROWS[4].split(",")
        cells[HEADER.split(",").index(column)] = "7.5"
        before = {"gradient_norm": "1.5", "gradient_product": "0.0"}[column]
        refused(
            csv_with(tmp_path, 4, ",".join(cells)),
            f"line 6, column {column}: must be the same for all of prompt '1', "
            f"'{before}' on line 5, got '7.5'",
        )

    def test_batches_that_differ_within_a_prompt(self, tmp_path):
        rows = [f"{row},{i == 4:d}" for i, row in enumerate(ROWS)]
        path = written(tmp_path, [HEADER + ",batch", *rows])
        refused(path, "line 6, column batch: must be the same for all of prompt '1', '0' on line 5")

    @pytest.mark.parametrize("cell", [None, [1], ""])
    def test_prompts(self, tmp_path, cell):
        rows = json_rows()
        rows[2]["prompt"] = cell
        path = written(tmp_path, [json.dumps(row) for row in rows], ".jsonl")
        refused(path, "line 3, column prompt: must be a number or a text that is not empty, got")

    def test_a_row_that_is_short(self, tmp_path):
        refused(csv_with(tmp_path, 4, "1,2,3"), "line 6: must have 5 cells, got 3")

    def test_a_quote_that_does_not_end(self, tmp_path):
        refused(csv_with(tmp_path, 23, '"1,2,3,4,5'), "line 25: must be CSV (unexpected end of d")

    @pytest.mark.parametrize("line", ["{", "3", "[]", "{}", "null", "[" * 10**5])
    def test_a_line_that_is_no_object(self, tmp_path, line):
        lines = [json.dumps(row) for row in json_rows()]
        path = written(tmp_path, [*lines[:4], line, *lines[5:]], ".jsonl")
        refused(path, "line 5: must be a JSON object")

    def test_keys_that_change(self, tmp_path):
        rows = json_rows()
        del rows[4]["reward"]
        path = written(tmp_path, [json.dumps(row) for row in rows], ".jsonl")
        refused(path, "line 5: must have the keys of the first row, prompt, reward, ")

    def test_text_that_is_not_utf_8(self, tmp_path):
        path = tmp_path / "sample.csv"
        path.write_bytes(HEADER.encode() + b"\n\xff\n")
        refused(path, "must be UTF-8 text, got invalid start byte")

    def test_what_the_sample_refuses(self, tmp_path):
        """Would catch: an error that leaves open which of several files it is about."""
        refused(csv_with(tmp_path, 4, ROWS[3].replace("1,", "x,", 1)), "every prompt must have at")
        refused(csv_with(tmp_path, 4, "1,1,-2,1.5,0.0"), "score_norms must not be negative, got")


class TestDamage:
    def whole(self, tmp_path):
        path = tmp_path / "whole.npz"
        save_sample(sample_with(range(8)), path)
        return path.read_bytes()

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
    def test_an_archive_that_was_cut(self, tmp_path, share):
        content, path = self.whole(tmp_path), tmp_path / "cut.npz"
        path.write_bytes(content[: int(share * len(content))])
        refused(path, "must be a whole NumPy archive of plain arrays (")

    def test_an_archive_with_changed_bytes(self, tmp_path):
        """Every change is refused by its checksum, or leaves all numbers as they were."""
        content, path = self.whole(tmp_path), tmp_path / "changed.npz"
        whole = load_sample(tmp_path / "whole.npz")
        for place in np.random.default_rng(0).choice(len(content), size=300, replace=False):
            path.write_bytes(
                content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]
            )
            try:
                back = load_sample(path)
            except ValueError as error:
                assert str(path) in str(error)
            else:
                assert all(np.array_equal(getattr(back, f), getattr(whole, f)) for f in FIELDS)

    def test_pickles_are_not_opened(self, tmp_path):
        path = tmp_path / "pickle.npz"
        np.savez(path, **{name: np.array([{}], dtype=object) for name in FIELDS})
        refused(path, "must be a whole NumPy archive of plain arrays (Object arrays cannot be")

    def test_a_single_array(self, tmp_path):
        path = tmp_path / "array.npz"
        with path.open("wb") as file:
            np.save(file, np.ones(3))
        refused(path, "must be a NumPy archive, got a single array")
