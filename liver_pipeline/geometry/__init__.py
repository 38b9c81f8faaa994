"""Affines, grids, boxes and resampling: plain functions on arrays and numbers."""
