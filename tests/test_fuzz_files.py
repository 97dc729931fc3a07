"""A sample of the mutants of `benchmarks/fuzz_files.py`, and that it would notice each kind of fault."""

import io
import sys
import time
import zipfile

import numpy as np
import pytest

from benchmarks import fuzz_files
from benchmarks.file_kinds import KINDS, Kind, make_originals
from benchmarks.file_mutations import mutate, mutate_member
from benchmarks.fuzz_files import is_fault, make_mutant, read_mutant


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    make_originals(folder)
    return folder


@pytest.fixture(scope="module")
def whole(originals):
    return {kind.name: kind.read(originals / kind.name) for kind in KINDS}


def test_damaged_files_are_refused_by_name_quickly_and_in_little_memory(tmp_path, originals, whole):
    first = fuzz_files.N_MUTANTS  # others than those of the figure in docs/faults.md
    outcomes = [read_mutant(first + number, originals, tmp_path, whole) for number in range(25 * len(KINDS))]
    assert [outcome for outcome in outcomes if is_fault(outcome)] == []
    refused = {outcome.kind for outcome in outcomes if outcome.verdict == "refused"}
    assert refused >= {kind.name for kind in KINDS} - {"status", "progress"}  # which are read as far as they can be


def test_a_mutant_is_fixed_by_its_number(tmp_path, originals):
    def content(number):
        kind, target, _ = make_mutant(number, originals, tmp_path)
        return [(target / name).read_bytes() for name in kind.files]

    n = len(KINDS)
    assert content(0) == content(0) != content(n)
    assert any(content(i * n) != content(i * n + n) for i in range(3))


def test_mutations_change_a_file_and_sealed_zips_stay_zips():
    rng = np.random.default_rng(0)
    text = b'{"a": [1, 2.5, "x"], "b": {"c": null}}'
    changed = [mutate(text, is_text, rng) != text for is_text in (True, False) for _ in range(100)]
    assert np.mean(changed) > 0.8
    content = fuzz_files.__file__.encode() * 10

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data", content)
    for _ in range(20):
        with zipfile.ZipFile(io.BytesIO(mutate_member(file.getvalue(), rng))) as archive:
            assert archive.testzip() is None


def silent(_folder):
    return "another"


def foreign(folder):
    raise KeyError("x")


def slow(folder):
    time.sleep(0.2)
    raise ValueError(str(folder))


def greedy(folder):
    content = b"1" * (100 * 2**20)
    raise ValueError(f"{folder}: {len(content)}")


@pytest.mark.parametrize(
    ("read", "verdict"),
    [
        (silent, "accepted in silence"),
        (foreign, "foreign exception"),
        (slow, "slow"),
        pytest.param(greedy, "memory", marks=pytest.mark.skipif(sys.platform != "linux", reason="no peak to forget")),
    ],
)
def test_every_kind_of_fault_is_noticed(tmp_path, monkeypatch, read, verdict):
    (tmp_path / "a" / "it").mkdir(parents=True)
    (tmp_path / "a" / "it" / "file.json").write_text('{"a": 1}')
    kind = Kind("it", ("file.json",), read, has_checksum=True)
    monkeypatch.setattr(fuzz_files, "kind_of", lambda _number: kind)
    monkeypatch.setattr(fuzz_files, "MAX_SECONDS", 0.1)
    outcome = read_mutant(0, tmp_path / "a", tmp_path, {"it": "whole"})
    assert outcome.verdict == verdict
    assert is_fault(outcome)
