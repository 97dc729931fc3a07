"""Where a trained agent comes from: the argument and options that evaluate and enjoy share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PRETRAINED = "pretrained:"


def load_trained(model: str) -> Any:
    """What can be evaluated: a pretrained agent, an agent's files, or a model."""
    from sb3_multitask import A2CMultiTask, load_agent, load_pretrained

    if model.startswith(PRETRAINED):
        return load_pretrained(model.removeprefix(PRETRAINED))
    path = Path(model)
    if (path / "vecnormalize.pkl").exists():  # of another algorithm, whose model does not know its tasks
        return load_agent(path)
    path = path / "model.zip" if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a run's folder, a model.zip or an agent's .safetensors")
    return load_agent(path.with_suffix("")) if path.suffix == ".safetensors" else A2CMultiTask.load(path, device="cpu")
