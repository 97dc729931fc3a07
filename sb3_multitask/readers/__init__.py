"""Read weights and statistics from files of SB3 and rl_zoo3, without executing anything in them."""

from sb3_multitask.readers.inert_pickle import UnreadableFileError
from sb3_multitask.readers.normalizer import ObsStatistics, read_vec_normalize
from sb3_multitask.readers.npz import read_npz
from sb3_multitask.readers.saved_actor import SavedActor, read_sb3_actor
from sb3_multitask.readers.sb3_zip import SavedPolicy, read_sb3_zip

__all__ = [
    "ObsStatistics",
    "SavedActor",
    "SavedPolicy",
    "UnreadableFileError",
    "read_npz",
    "read_sb3_actor",
    "read_sb3_zip",
    "read_vec_normalize",
]
