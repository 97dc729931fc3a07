"""Find out what a file or folder without an agent is, so that the error names the reason and the alternative."""

from __future__ import annotations

import zipfile
from pathlib import Path

ACCEPTED = "a run's folder, a model's zip, or an agent's .safetensors (with its .json next to it)"

_BY_ENDING = {
    ".onnx": "an export, from which no agent can be made again; give the agent or the run that it was made of",
    ".pt2": "an export, from which no agent can be made again; give the agent or the run that it was made of",
    ".pkl": "a pickle. If it is the file of VecNormalize.save, give it as `normalizer` with the model's zip",
    ".npz": "a file of numpy's arrays; weights can be given to `Agent` itself",
    ".h5": "a file of HDF5; weights can be given to `Agent` itself",
}
_TORCH = (
    "a file of torch.save. load_agent(path, layout=ModuleLayout(...)) reads a whole module in torch's format before "
    "1.6; other weights that you read from it can be given to `Agent` itself"
)
_LFS = b"version https://git-lfs"


def is_zip(path: Path) -> bool:
    """Return whether a path is a model's zip, which SB3 may have given any ending."""
    if path.suffix == ".zip":
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return "data" in archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


def lfs_pointer(path: Path) -> str:
    """Return a sentence if the file is a pointer of Git LFS, else an empty string."""
    with path.open("rb") as file:
        is_pointer = file.read(len(_LFS)) == _LFS
    return "is a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`" if is_pointer else ""


def describe_file(path: Path) -> str:
    """Describe an existing file that is neither a model's zip nor an agent's file."""
    if path.suffix in _BY_ENDING:
        return f"is {_BY_ENDING[path.suffix]}"
    if path.suffix in (".pt", ".pth") or zipfile.is_zipfile(path):
        return f"is {_TORCH}"
    return lfs_pointer(path) or f"is no file that an agent is read from; give {ACCEPTED}"


def describe_folder(path: Path) -> str:
    """Describe a folder without an agent: its kind, or the models in it that can be given."""
    if (path / "manifest.json").exists():
        return "is a checkpoint, to resume from; give the run's folder, or save the model's agent (save_agent)"
    models = sorted(file for ending in ("*.zip", "*.safetensors") for file in path.glob(ending))
    if models:
        return (
            f"has no agent of its own; models in it, which can be given themselves: {', '.join(m.name for m in models)}"
        )
    return f"holds no agent (no model.zip, agent.json or agents/final.json); give {ACCEPTED}"
