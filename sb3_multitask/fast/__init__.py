"""The fast engine: the same mathematics as torch's autograd, in numpy and closed form."""

from sb3_multitask.fast.engine import FastEngine, why_not_fast
from sb3_multitask.fast.update import LossRows

__all__ = ["FastEngine", "LossRows", "why_not_fast"]
