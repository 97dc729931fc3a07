"""Files that are whole or not there, plain values, YAML and CSV."""
