"""The colours of outlines: one a class where a mask stands alone, one a mask where two are compared."""

from liver_pipeline.labels import LIVER, TUMOR

CLASS_RGB = {LIVER: (0, 220, 90), TUMOR: (255, 150, 0)}
REFERENCE_RGB, PREDICTION_RGB = (0, 200, 255), (255, 150, 0)  # blue and orange stay apart for colour-blind readers
CONTOUR_RGB = {1: (255, 240, 90), 2: (255, 255, 255)}  # where the probability passes 0.2, and 0.8
