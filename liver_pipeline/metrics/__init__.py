"""Figures of a predicted and a reference label map: plain functions on arrays and numbers.

- ``overlap``: voxel counts, Dice, IoU, precision, recall, accuracy;
- ``surfaces``: distances in mm, named by definition;
- ``lesions``: components, matching, detection;
- ``lits``: the LiTS challenge's scoring, as published and as meant;
- ``shapes``: diameters, sizes and places of lesions;
- ``probabilities``: AUC, Brier score, calibration;
- ``statistics``: means with intervals, Bland-Altman.
"""
