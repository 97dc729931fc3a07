"""Weights and statistics out of other people's files, without running anything that stands in them."""

from sb3_multitask.readers.inert_pickle import UnreadableFileError
from sb3_multitask.readers.normalizer import ObsStatistics, read_vec_normalize
from sb3_multitask.readers.npz import read_npz
from sb3_multitask.readers.sb3_zip import SavedPolicy, read_sb3_zip

__all__ = ["ObsStatistics", "SavedPolicy", "UnreadableFileError", "read_npz", "read_sb3_zip", "read_vec_normalize"]
