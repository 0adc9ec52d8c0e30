"""What no sample is, however it is spelled: one sentence, short, that a terminal only shows."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from typing import Any

import numpy as np
import pytest

from support.noise_cases import flat_sample
from ustat_grpo.inputs.ids import identified
from ustat_grpo.noise import NoiseEstimate, OutputSample, estimate_noise, sign_probes
from ustat_grpo.noise.groups import grouped
from ustat_grpo.noise.sample_archive import LARGEST_ARRAYS
from ustat_grpo.noise.sample_files import load_sample, save_sample

HEADER = "prompt,reward,score_norm,gradient_norm,gradient_product"
NAMES = HEADER.split(",")
TOO_LARGE = f"arrays must take at most {LARGEST_ARRAYS} bytes, got "
LONGEST = 1500
"""Characters of a sentence and of the few values that it quotes."""


def sentence(act, *arguments, **named) -> str:
    """Return the error of a call: one line, bounded, without what a terminal would obey."""
    with pytest.raises(ValueError) as caught:
        act(*arguments, **named)
    told = str(caught.value)
    assert told.isprintable() and len(told) < LONGEST, told[:2000]
    return told


def fields_of(sample: OutputSample) -> dict[str, Any]:
    return {name: getattr(sample, name) for name in sample.__dataclass_fields__}


class TestIds:
    """Would catch: ids that pass through doubles, and groups that merge there in silence."""

    @pytest.mark.parametrize(
        ("ids", "count"),
        [
            ([2**63 + 1, 2**63 + 2, 7], 3),
            (np.array([2**63 + 1, 2**63 + 2], dtype=np.uint64), 2),
            ([2**200, 2**200 + 1], 2),
            ([-(2**63) - 1, -(2**63) - 2, 1], 3),
            ([2**53, 2**53 + 1, 0.5], 3),
            ([np.int64(2**62), np.uint64(2**63 + 1), np.uint64(2**63 + 2)], 3),
            (np.array([2**62 + 1, 2**62 + 2, "a"], dtype=object), 3),
            (np.array([0.5, 1.5, 2.0]), 3),
            ([7, 7.0, np.float32(7), np.uint8(7)], 1),
            ([1, "a"], 2),
            (["7", "007", "7.0"], 3),
            (["a", "a\0", "A"], 3),
            ([b"a", b"b"], 2),
            (np.ma.array([1, 2], mask=[False, False]), 2),
            (("x", np.str_("x")), 1),
            (np.array(["é", "e\u0301"]), 2),
        ],
    )  # fmt: skip
    def test_are_as_many_as_differ(self, ids, count):
        found = identified("prompts", ids)
        assert len(found.first) == count and len(found.values) == len(ids)
        again = identified("prompts", found.values)
        assert again.place.tolist() == found.place.tolist()

    @pytest.mark.parametrize(
        ("ids", "told"),
        [
            ([1, None, 3], "a number or a text that is not empty, got None in row 1"),
            (["a", None], "got None in row 1"),
            ([2**62 + 1, 2**62 + 2, float("nan")], "got nan in row 2"),
            (np.array([1.0, np.nan]), "got nan in row 1"),
            (np.array([np.inf]), "got inf in row 0"),
            ([np.datetime64("NaT", "s")], "in row 0"),
            (["a", "NaN"], "got 'NaN' in row 1"),
            (["<NA>"], "got '<NA>' in row 0"),
            ([""], "got '' in row 0"),
            (np.array([2**24 + 1, 3], dtype=np.float32), "exact: reals from 2^24 on stand for"),
            (np.array([2**63 + 1, 7.0]), "exact: reals from 2^53 on stand for several numbers"),
            ([2.0**53], "in row 0"),
            (np.array([2048], dtype=np.float16), "reals from 2^11 on"),
            ([True, 1], "got True in row 0"),
            (np.array([False, True]), "got False in row 0"),
            ([7, "7"], "a number and a text, got 7 in row 0"),
            ([1j], "got 1j in row 0"),
            ([[1], [2]], "got [1] in row 0"),
            ([b"\xff"], "in UTF-8, got b'\\xff' in row 0"),
            (["\ud800"], r"a text that UTF-8 can write, got '\ud800' in row 0"),
            ([{}], "got {} in row 0"),
            ([10**5000], "an integer of at most 1024 bits"),
            (["a" * 10**6 + "\ud800"], "(1000008 in all)"),
            (np.ma.array([1, 2], mask=[False, True]), "must not be masked, got 1 masked entries"),
            ([1, np.ma.masked], "must not be masked"),
            (np.array(5), "prompts must be one id a row, got shape ()"),
            (np.ones((2, 2), dtype=int), "prompts must be one id a row, got shape (2, 2)"),
        ],
    )  # fmt: skip
    def test_are_refused_with_their_row(self, ids, told):
        assert told in sentence(identified, "prompts", ids)

    def test_of_pandas(self):
        """Nullable integers keep their digits; what is missing is named."""
        pd = pytest.importorskip("pandas")
        whole = pd.Series([2**62 + 1, 2**62 + 2], dtype="Int64")
        assert identified("prompts", whole).values.tolist() == [2**62 + 1, 2**62 + 2]
        assert "got <NA> in row 1" in sentence(
            identified, "prompts", pd.Series([1, None], dtype="Int64").astype(object)
        )
        assert "got nan in row 1" in sentence(
            identified, "prompts", pd.Series([1, None], dtype="Int64")
        )
        assert "in row 1" in sentence(identified, "prompts", pd.Series(["a", None]))

    def test_of_a_sample_and_of_its_batches(self, rng):
        """Would catch: one of the two places that still compares by NumPy."""
        sample = flat_sample(rng, [3] * 9)
        fields = fields_of(sample)
        ids = [2**63 + b for b in range(8)] + [7]
        large = OutputSample(**fields | {"prompts": [each for each in ids for _ in range(3)]})
        assert large.groups.sizes.tolist() == [3] * 9
        halves = [2**63 + 1] * 4 + [2**63 + 2] * 4 + [7]
        told = sentence(OutputSample, **fields | {"batches": halves})
        assert told == "every batch must have at least 2 prompts, got 1"
        assert "one id a row, got shape ()" in sentence(OutputSample, **fields | {"batches": 5})
        assert "got None in row 8" in sentence(
            OutputSample, **fields | {"batches": [1] * 8 + [None]}
        )
        assert len(OutputSample(**fields | {"batches": [1] * 4 + [2] * 5}).partners) == 9


class TestArrays:
    """Would catch: a mask that is dropped, and numbers that lose what makes them none."""

    @pytest.mark.parametrize("name", ["rewards", "score_norms", "gradient_norms"])
    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda x: np.ma.array(x, mask=x == x[0]), " must not be masked, got "),
            (lambda x: [np.ma.masked, *x[1:]], " must not be masked, got 1 masked entries"),
            (lambda x: x + 1j, " must be real numbers, got "),
            (lambda x: [None, *x[1:]], " must be finite, got 1 NaN"),
            (lambda x: ["one", *x[1:]], " must be real numbers, got ['one', "),
            (lambda x: [10**400, *x[1:]], " must be real numbers, got [1000"),
            (lambda x: x.astype("M8[s]"), " must be real numbers, got "),
            (lambda x: 0.5, " must be 1-dimensional and not empty, got shape ()"),
        ],
    )
    def test_refuses(self, rng, name, change, told):
        sample = flat_sample(rng, [3] * 9)
        fields = fields_of(sample)
        assert name + told in sentence(OutputSample, **fields | {name: change(fields[name])})

    def test_lists_are_as_good_as_arrays(self, rng):
        sample = flat_sample(rng, [4] * 9)
        fields = fields_of(sample)
        plain: Any = {k: v if v is None else v.tolist() for k, v in fields.items()}
        lists = OutputSample(**plain)
        found, wanted = estimate_noise(lists), estimate_noise(sample)
        assert found.contributions.tolist() == wanted.contributions.tolist()
        rows_of_numbers: Any = wanted.contributions.tolist()
        again = NoiseEstimate(rows_of_numbers, 0.95)
        assert again.optimal == wanted.optimal and again.prompt == wanted.prompt
        rewards, prompts = sample.rewards.tolist(), sample.prompts.tolist()
        assert grouped(rewards, prompts).sizes.tolist() == [4] * 9
        first, second = (
            sign_probes(*each, rng=np.random.default_rng(0))
            for each in ((rewards, prompts), (sample.rewards, sample.prompts))
        )
        assert first.weights.tolist() == second.weights.tolist()
        norms = np.ones(len(first.weights)).tolist()
        assert estimate_noise(first.measured(norms)).contributions.shape == (4, 3)

    def test_scores_that_are_masked(self, rng):
        scores = [np.ma.array(rng.normal(size=(3, 2)), mask=np.eye(3, 2) > 0)] * 9
        assert "scores[0] must not be masked" in sentence(
            OutputSample.from_scores, scores, [[0.0, 1.0, 2.0]] * 9
        )


def rows() -> list[dict[str, Any]]:
    return [
        {"prompt": f"p{b}", "reward": i / 2, "score_norm": 1.0 + i, "gradient_norm": 0.1,
         "gradient_product": 0.1}
        for b in range(8) for i in range(3)
    ]  # fmt: skip


LONG = "x" * 3_000_000  # 3 MB
ESCAPES = "\x1b]0;gotcha\x07\x1b[2J\u202e\r\n"


class TestText:
    """Would catch: an error that prints megabytes, or clears the screen of who reads it."""

    def told(self, tmp_path, text: str, suffix: str) -> str:
        path = tmp_path / f"sample{suffix}"
        path.write_bytes(text.encode())
        return sentence(load_sample, path)

    def lines(self, **changes) -> str:
        return "".join(json.dumps(row | changes) + "\n" for row in rows())

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            (json.dumps(rows() * 200), "line 1: must be a JSON object with keys, got "),
            (f'"{LONG}"', "must be a JSON object with keys, got "),
            ("[" * 100_000, "line 1: must be a JSON object (maximum recursion depth"),
            ('{"a":' * 100_000, "line 1: must be a JSON object (maximum recursion depth"),
            ("9" * 5000, "line 1: must be a JSON object (Exceeds the limit"),
            ('{"reward": 1, "reward": 2}', "keys must differ, got reward, reward"),
            (json.dumps({LONG: 1}), "columns must be prompt, reward"),
            (json.dumps({ESCAPES: 1}), r"got also '\x1b]0;gotcha"),
            (json.dumps(dict.fromkeys(map(str, range(10**5)), 0)), "columns must be prompt"),
            (json.dumps(rows()[0]) + "\n" + json.dumps({LONG: 1}), "line 2: must have the keys"),
        ],
    )  # fmt: skip
    def test_of_json_lines(self, tmp_path, text, told):
        assert told in self.told(tmp_path, text, ".jsonl")

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"reward": LONG}, "line 1, column reward: must be a finite number, got 'xxx"),
            ({"reward": ESCAPES}, r"got '\x1b]0;gotcha\x07\x1b[2J\u202e\r\n'"),
            ({"reward": [[[0] * 10**5]]}, "must be a finite number, got [[[0, 0"),
            ({"prompt": "\ud800"}, r"line 1, column prompt: must be a text that UTF-8 can write"),
            ({"prompt": None}, "line 1, column prompt: must be a number or a text"),
            ({"prompt": True}, "line 1, column prompt: must be a number or a text"),
            ({"prompt": float("nan")}, "line 1, column prompt: must be a number or a text"),
            ({"prompt": 2.0**63}, "line 1, column prompt: must be exact"),
            ({"prompt": "nan"}, "line 1, column prompt: must be a number or a text"),
            ({"batch": None}, "line 1, column batch: must be a number or a text"),
        ],
    )
    def test_of_cells(self, tmp_path, changes, told):
        assert told in self.told(tmp_path, self.lines(**changes), ".jsonl")

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            (",".join(map(str, range(10**5))) + "\n1\n", "line 2: must have 100000 cells, got 1"),
            (",".join([LONG[:1000]] * 100) + "\n", "columns must have different names, got xxx"),
            (f"{HEADER}\n1,{ESCAPES},1,1,1\n", "must have 5 cells, got 2"),
            (f"{HEADER}\n{2**24 * 'x'}x,1,1,1,1\n", "must be CSV (field larger than field limit"),
            (f"{HEADER}\n1,\x1b[2J,1,1,1\n", r"must be a finite number, got '\x1b[2J'"),
            (f"{HEADER}\n,1,1,1,1\n", "line 2, column prompt: must be a number or a text"),
        ],
    )  # fmt: skip
    def test_of_csv(self, tmp_path, text, told):
        assert told in self.told(tmp_path, text, ".csv")

    def test_a_prompt_is_an_id_in_every_format(self, tmp_path):
        """Would catch: CSV's own limit of 131,072 characters, or a limit that stays changed."""
        values, ids = np.array([0.0, 1.0, 2.0] * 2), ["a" * 10**6] * 3 + ["b"] * 3
        sample = OutputSample(values, values + 1, ids, [0.1] * 2, [0.1] * 2)
        before = csv.field_size_limit()
        for suffix in (".csv", ".jsonl"):
            save_sample(sample, tmp_path / f"long{suffix}")
            assert list(load_sample(tmp_path / f"long{suffix}").prompts) == ids
        assert csv.field_size_limit() == before

    def test_of_a_name(self, tmp_path):
        assert r"\x1b[2J" in sentence(load_sample, tmp_path / "a\x1b[2J.txt")
        path = tmp_path / "a\x1b[2J.csv"
        path.write_text("x\n1\n")
        assert r"a\x1b[2J.csv: columns must be" in sentence(load_sample, path)


class TestMemory:
    def test_one_long_id_does_not_make_all_ids_long(self, tmp_path):
        """100 kB among 6,000 rows took 2.4 GB as text of one width."""
        import tracemalloc

        count = 2_000
        ids = np.repeat(np.array([*range(count - 1), "y" * 100_000], dtype=object), 3)
        values = np.tile([0.0, 1.0, 2.0], count)
        path = tmp_path / "long.csv"
        sample = OutputSample(values, values, ids, np.full(count, 0.1), np.full(count, 0.1))
        tracemalloc.start()
        save_sample(sample, path)
        back = load_sample(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert isinstance(back, OutputSample) and len(back.groups.sizes) == count
        assert peak < 50e6
        told = sentence(save_sample, sample, tmp_path / "long.npz")
        assert f"at most {LARGEST_ARRAYS} bytes" in told and "100000 characters" in told
        assert not (tmp_path / "long.npz").exists()

    @staticmethod
    def archive(path, header: bytes, content: bytes = b"", name: str = "components") -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{name}.npy", header + content)

    @staticmethod
    def header(shape: str, kind: str = "<f8") -> bytes:
        text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
        return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text + b"\n"

    @pytest.mark.parametrize(
        ("shape", "kind", "told"),
        [
            ("(1000000000000, 3)", "<f8", f"{TOO_LARGE}24000000000000"),
            ("(10, 3)", "<U100000000", f"{TOO_LARGE}12000000000"),
            (f"(1{'0' * 400},)", "<f8", f"{TOO_LARGE}8000"),
            ("(100000, 3)", "<f8", "must be a whole NumPy archive of plain arrays ("),
            ("(-1, 3)", "<f8", "must be a whole NumPy archive of plain arrays ("),
            ("('a',)", "<f8", "must be a whole NumPy archive of plain arrays ("),
            ("(4, 3)", "|O", "must be a whole NumPy archive of plain arrays (Object arrays"),
            ("(4, 3)", "nonsense", "must be a whole NumPy archive of plain arrays ("),
            ("(((" * 50, "<f8", "must be a whole NumPy archive of plain arrays ("),
        ],
    )  # fmt: skip
    def test_what_a_header_claims(self, tmp_path, shape, kind, told):
        path = tmp_path / "claims.npz"
        self.archive(path, self.header(shape, kind))
        assert told in sentence(load_sample, path)

    def test_what_a_small_file_unpacks_to(self, tmp_path, monkeypatch):
        """A bomb, with the limit lowered so that the test need not build one of a gigabyte."""
        monkeypatch.setattr("ustat_grpo.noise.sample_archive.LARGEST_ARRAYS", 10**6)
        path = tmp_path / "bomb.npz"
        self.archive(path, self.header("(1000000, 3)"), bytes(24 * 10**6))
        assert path.stat().st_size < 10**5
        assert "arrays must take at most 1000000 bytes, got 240000" in sentence(load_sample, path)
        self.archive(path, self.header("(4, 3)"), b"", name="harmless")
        assert "got also 'harmless'" in sentence(load_sample, path)

    def test_members_that_no_reader_knows(self, tmp_path):
        path = tmp_path / "odd.npz"
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr("components.npy", self.header("(4, 3)") + bytes(96))
        for method in (b"\x63\x00", b"\x0e\x00"):  # encrypted by AES, and damaged LZMA
            changed = bytearray(content.getvalue())
            for start in (changed.index(b"PK\x03\x04") + 8, changed.index(b"PK\x01\x02") + 10):
                changed[start : start + 2] = method
            path.write_bytes(changed)
            assert "must be a whole NumPy archive" in sentence(load_sample, path)
