"""Pairs of masks and references: found, scored, described."""
