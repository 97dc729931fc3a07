"""What an import says where MuJoCo is missing, broken or old. Each case runs in a process of its own."""

import subprocess
import sys

import pytest

import sb3_multitask as mt
from sb3_multitask.vec_env import batch, making

WHOLE = "class MjSpec: ..."
BROKEN = {
    "an upgrade in place": ({"__init__.py": "raise ImportError('bindings are missing')"}, "bindings are missing"),
    "a lost extension": ({"__init__.py": "import mujoco._specs"}, "No module named 'mujoco._specs'"),
    "a lost library": ({"__init__.py": "raise ImportError('libmujoco.so.4: cannot open')"}, "libmujoco.so.4: cannot"),
    "a downgrade in place": ({"__init__.py": "raise OSError('libmujoco.so.4.0.0: cannot open')"}, "libmujoco.so.4.0.0"),
    "a batch of a later version": ({"__init__.py": WHOLE, "batch.py": "import mujoco; mujoco.mjtState"}, "'mjtState'"),
    "left by an uninstallation": ({"_version.py": ""}, "no MjSpec"),
    "a batch without its core": ({"__init__.py": WHOLE, "batch.py": "import mujoco._batch"}, "'mujoco._batch'"),
}


def run(find, code):
    """Run ``code`` where ``find``, a function of a name and a path, finds modules before all others do."""
    finder = f"""
import importlib.machinery, sys
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        {find}
sys.meta_path.insert(0, Finder)
{code}
"""
    return subprocess.run([sys.executable, "-c", finder], capture_output=True, text=True, check=False)


def without(module):
    return f"if name == {module!r}: raise ModuleNotFoundError('No module named ' + repr(name), name=name)"


def error_of(done):
    assert done.returncode == 1
    return done.stderr[done.stderr.rindex("Error: ") :]


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_mujoco_is_reported_with_its_remedy(case, tmp_path):
    files, reason = BROKEN[case]
    (tmp_path / "mujoco").mkdir()
    for name, content in files.items():
        (tmp_path / "mujoco" / name).write_text(content)
    in_its_place = f"if name == 'mujoco': return importlib.machinery.PathFinder.find_spec(name, [{str(tmp_path)!r}])"
    error = error_of(run(in_its_place, "import sb3_multitask"))
    assert reason in error
    assert "pip uninstall -y mujoco mujoco-core mujoco-studio" in error
    assert error.rstrip().endswith("pip install mujoco")


def test_a_missing_mujoco_is_not_called_broken():
    error = error_of(run(without("mujoco"), "import sb3_multitask"))
    assert "not installed" in error
    assert error.rstrip().endswith("pip install mujoco")
    assert "uninstall" not in error


def test_a_mujoco_without_batch_is_not_broken():
    code = "import sb3_multitask as mt; print(mt.MultiTaskVecEnv('Swimmer-v5').backend)"
    done = run(without("mujoco.batch"), code)
    assert (done.returncode, done.stdout) == (0, "dummy\n"), done.stderr
    assert "needs mujoco.batch" in done.stderr


def test_without_mujoco_batch_auto_falls_back_and_says_so_once(monkeypatch):
    for module in (batch, making):
        monkeypatch.setattr(module, "BATCH_IS_MISSING", True)
    making._warn_once.cache_clear()
    with pytest.warns(UserWarning, match=r"needs mujoco.batch.*>= 3.17.*Falling back"):
        assert mt.MultiTaskVecEnv("HalfCheetahBigLeg-v0").backend == "dummy"
    assert mt.MultiTaskVecEnv("HalfCheetahBigLeg-v0").backend == "dummy"  # a second warning would be an error
