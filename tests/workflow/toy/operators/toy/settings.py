"""Settings of the toy."""

from typing import Literal

from operators.lab import settings as lab
from operators.lab.settings import field


class Settings(lab.Settings):
    """Everything a toy run depends on."""

    system: Literal["toy"] = field("toy", unit="name", source="this folder")
    rows: int = field(1000, unit="numbers", source="our choice", ge=1)
    hold: str = field("", unit="file whose absence ends the stage; empty: do not wait", source="tests")
