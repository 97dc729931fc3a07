"""One gradient from those of several tasks on the parameters that they share, and how these conflict.

A combiner sees the Gramian of the gradients alone, (k, k), so it knows no net and no engine.
"""

from sb3_multitask.combiners.base import Combiner, Mean
from sb3_multitask.combiners.combining import NETS, GradientCombining, Net, cosines, pair_statistics
from sb3_multitask.combiners.pcgrad import PCGrad, pcgrad_weights
from sb3_multitask.combiners.scaled import MeanNorm
from sb3_multitask.combiners.settings import COMBINERS, GradientCombiner, make_combiners
from sb3_multitask.combiners.torchjd import TorchJDCombiner

__all__ = [
    "COMBINERS",
    "NETS",
    "Combiner",
    "GradientCombiner",
    "GradientCombining",
    "Mean",
    "MeanNorm",
    "Net",
    "PCGrad",
    "TorchJDCombiner",
    "cosines",
    "make_combiners",
    "pair_statistics",
    "pcgrad_weights",
]
