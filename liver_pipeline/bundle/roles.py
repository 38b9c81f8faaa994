"""What a row in the table of keys says, and what can follow from a key."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, auto

from liver_pipeline.bundle.values import Kind


class Role(Flag):
    """What follows from a key, for the commands that ask."""

    NONE = 0
    PATH = auto()
    COMMAND = auto()
    RUNNING = auto()
    LIVE = auto()
    GROWS = auto()
    STAGE = auto()
    EMBEDDED = auto()
    MEMBER = auto()
    COMPARE = auto()
    PLANNED = auto()
    INHERITED = auto()
    OFFERED = auto()


MEANING = {
    Role.PATH: "a path: always text; `~` and relative paths are made absolute where they enter",
    Role.COMMAND: "set by the commands themselves",
    Role.RUNNING: "says where, how and on which scans to run an inference, not what its masks are",
    Role.LIVE: "may change once a training has begun: it changes no result",
    Role.GROWS: "may grow while a training goes on: it prolongs it",
    Role.STAGE: "one a stage of a cascade: without `liver_` it is the tumor stage's alone",
    Role.EMBEDDED: "a cascade's inference takes it, with all it refers to, from the liver stage",
    Role.MEMBER: "members of an ensemble may differ in it",
    Role.COMPARE: "`compare` sets it, the same for all",
    Role.PLANNED: "`plan` proposes it",
    Role.INHERITED: "`train --from` takes it over from the parent",
    Role.OFFERED: "in use only where something refers to it",
}


@dataclass(frozen=True)
class Key:
    """A row: the key's name, what it accepts, what it is in a line, what follows from it, and its unit."""

    name: str
    kind: Kind
    what: str
    roles: Role = Role.NONE
    unit: str = ""
