"""State of the whole process: threads, seeds, random number generators, MuJoCo and its messages."""
