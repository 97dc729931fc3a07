"""What belongs to the whole process: threads, seeds, random number generators, MuJoCo and its messages."""
