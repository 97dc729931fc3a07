"""Films of trained agents: a separate process renders every task, with panels side by side, to files or a window."""

from sb3_multitask.evaluation.films.files import MAX_FPS, check_film_path, gif_bytes, write_film
from sb3_multitask.evaluation.films.filming import NoRendererError, film, find_renderer, real_time_fps
from sb3_multitask.evaluation.films.panels import grid_of
from sb3_multitask.evaluation.films.playing import EndedEpisode, Scene, Shot, longest_episode, play_episodes

__all__ = [
    "MAX_FPS",
    "EndedEpisode",
    "NoRendererError",
    "Scene",
    "Shot",
    "check_film_path",
    "film",
    "find_renderer",
    "gif_bytes",
    "grid_of",
    "longest_episode",
    "play_episodes",
    "real_time_fps",
    "write_film",
]
