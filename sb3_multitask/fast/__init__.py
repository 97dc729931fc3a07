"""The fast engine: the same mathematics as torch's autograd, in numpy and closed form."""

from sb3_multitask.fast.applies import why_not_fast
from sb3_multitask.fast.engine import FastEngine

__all__ = ["FastEngine", "why_not_fast"]
