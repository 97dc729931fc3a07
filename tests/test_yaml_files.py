"""What our YAML writer writes, our reader and rl_zoo3's (PyYAML, YAML 1.1) read back alike."""

import math

import numpy as np
import pytest
import yaml

from sb3_multitask.storage.yaml_files import load_values, write_yaml, yaml_text

TEXTS = [
    "on",
    "No",
    "y",
    "1e-4",
    "7e-05",
    "1:30",
    "0123",
    "1_000",
    "a: b",
    "null",
    "",
    "lin_7e-4",
    "-",
    "a\nb",
    "é #",
    "=",
]
VALUES = {
    "learning_rate": 7e-05,
    "large": -1e20,
    "count": 1_000_000,
    "none": None,
    "true": True,
    "texts": TEXTS,
    "nested": {"net_arch": {"pi": [64, 64], "vf": []}, "head_arch": {}},
    "tuple": (1, 2.5),
    **{text: text for text in TEXTS},
}


def test_two_versions_of_yaml_read_the_same(tmp_path):
    write_yaml(tmp_path / "x.yml", VALUES)
    expected = {**VALUES, "tuple": [1, 2.5]}
    assert load_values(tmp_path / "x.yml") == expected
    assert yaml.safe_load((tmp_path / "x.yml").read_text(encoding="utf-8")) == expected
    assert list(load_values(tmp_path / "x.yml")) == list(VALUES)


def test_numbers_that_are_not_finite_are_read_back():
    values = yaml.safe_load(yaml_text({"x": math.inf, "y": -math.inf, "z": math.nan}))
    assert (values["x"], values["y"]) == (math.inf, -math.inf)
    assert math.isnan(values["z"])


def test_values_that_are_not_plain_are_refused(tmp_path):
    with pytest.raises(ValueError, match="plain values"):
        write_yaml(tmp_path / "x.yml", {"x": np.float64})
    assert not (tmp_path / "x.yml").exists()
