"""Where a window lies: anywhere about the liver, or in the liver's box, as the second stage of a cascade sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from liver_pipeline.synthesis.acquisition import FieldOfView, field_of_view
from liver_pipeline.synthesis.draw import RandomDraw
from liver_pipeline.synthesis.pose import Points, Pose, bounds


@dataclass(frozen=True)
class Placement:
    """Where windows lie.

    Attributes:
        box_margin_mm: None: windows lie anywhere about the liver. Else they lie in the liver's box and this margin,
            and outside that box there is nothing.
        box_jitter_mm: Each face of that box moves inwards by up to so much.
    """

    box_margin_mm: float | None
    box_jitter_mm: float

    def origin(self, draw: RandomDraw) -> npt.NDArray[np.float64]:
        """Draw where the liver's centre comes to lie; it is right of the trunk's middle."""
        if self.box_margin_mm is not None:
            return np.zeros(3)
        spread = (14.0, 12.0, 30.0)
        origin = np.array([draw.normal(0, sd) for sd in spread])
        origin[0] += 0.15 * 2 * draw.grid.half[0]
        if draw.chance(0.07):  # chest, or pelvis
            origin[2] += draw.choice((-1, 1)) * draw.uniform(90, 180)
        return origin

    def moved(self, draw: RandomDraw, pose: Pose, points: Points) -> Pose:
        """Move the pose of an object's points so that the window lies somewhere in their box, if windows do."""
        if self.box_margin_mm is None:
            return pose
        low, high = bounds(pose.to_window(points))
        centre = []
        for first, last, half in zip(low - self.box_margin_mm, high + self.box_margin_mm, draw.grid.half, strict=True):
            room = (last - first) / 2 - half
            centre.append((first + last) / 2 + draw.uniform(-1, 1) * max(room, 6.0))
        return Pose(pose.matrix, pose.origin - np.array(centre), pose.target)

    def seen_box(self, draw: RandomDraw, pose: Pose, points: Points) -> FieldOfView | None:
        """Draw the field of view; None is all of the window. In a cascade it ends where the liver's box does."""
        box = field_of_view(draw, pose.origin.tolist())
        if self.box_margin_mm is None:
            return box
        low, high = bounds(pose.to_window(points))
        faces = [[-half, half] for half in draw.grid.half] if box is None or draw.chance(0.6) else box
        margins = [[self.box_margin_mm - draw.uniform(0, self.box_jitter_mm) for _ in range(2)] for _ in range(3)]
        return [
            [max(face[0], first - margin[0]), min(face[1], last + margin[1])]
            for face, first, last, margin in zip(faces, low, high, margins, strict=True)
        ]
