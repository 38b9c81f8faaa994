"""Tissue codes of a painted anatomy."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Tissue(IntEnum):
    """What a voxel is made of before it is given an intensity."""

    AIR = 0
    FAT = 1
    MUSCLE = 2
    SKIN = 3
    BONE = 4
    LUNG = 5
    SPLEEN = 6
    KIDNEY = 7
    GALLBLADDER = 8
    STOMACH = 9
    BOWEL = 10
    PANCREAS = 11
    AORTA = 12
    VENA_CAVA = 13
    PORTAL_VEIN = 14
    HEART = 15
    GAS = 16
    FLUID = 18
    NEIGHBOUR = 20  # the first of N_NEIGHBOURS unnamed organs
    LIVER = 40
    VESSEL = 41  # inside the liver


N_NEIGHBOURS: Final = 14  # codes NEIGHBOUR to NEIGHBOUR + 13
N_CODES: Final = 44
CAVITY_BIT: Final = 64  # added to the codes of a real scan inside the peritoneal cavity
