"""Files that are written completely or not at all; plain values, YAML and CSV."""
