"""Read weights and statistics from files of SB3, rl_zoo3 and torch, without executing anything in them."""

from sb3_multitask.readers.inert_pickle import UnreadableFileError
from sb3_multitask.readers.normalizer import ObsStatistics, read_vec_normalize
from sb3_multitask.readers.npz import read_npz
from sb3_multitask.readers.saved_actor import SavedActor, read_sb3_actor
from sb3_multitask.readers.sb3_zip import SavedPolicy, read_sb3_zip
from sb3_multitask.readers.torch_module import read_torch_module

__all__ = [
    "ObsStatistics",
    "SavedActor",
    "SavedPolicy",
    "UnreadableFileError",
    "read_npz",
    "read_sb3_actor",
    "read_sb3_zip",
    "read_torch_module",
    "read_vec_normalize",
]
