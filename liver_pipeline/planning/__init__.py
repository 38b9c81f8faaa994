"""A data set's fingerprint, and the rules that make an experiment of it."""
