"""Settings of a system: a frozen pydantic model, sizes per profile, errors a person can act on, and a JSON schema.

A system subclasses `Settings` in its `settings.py`; every field is made with `field(default, unit=..., source=...)`.
Values come from, later wins: the class's defaults, the profile's entry in `workflows/<system>/profiles.yaml`, the
user's configuration. What is not known here: where files lie, and anything about Snakemake.
"""

import difflib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

PROFILES = ("ci", "laptop", "full", "paper")


class SettingsError(ValueError):
    """A setting is unknown or has an impossible value; the message names key, value and what was expected."""


def field(default: Any = ..., *, unit: str, source: str, **constraints: Any) -> Any:
    """A settings field that carries its unit and the source of its default into the JSON schema."""
    return Field(
        default,
        description=f"{unit}. Source: {source}.",
        json_schema_extra={"unit": unit, "source": source},
        **constraints,
    )


class Settings(BaseModel):
    """Base of every system's settings: immutable, closed to unknown keys, hashable by content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str = field(unit="name", source="the system's folder")
    profile: str = field("laptop", unit="name", source="profiles/", pattern="^(" + "|".join(PROFILES) + ")$")
    seed: int = field(0, unit="seed", source="our choice", ge=0)
    seeds: int = field(5, unit="seeds, from `seed` upwards", source="our choice", ge=1)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], profiles: Path | None = None) -> Self:
        """Settings from a run's configuration: the profile's sizes first, then the user's values for this system.

        `config` has `profile` and, under the system's name, the values; `profiles` is the system's file of sizes.
        Raises SettingsError naming key, value and what was expected.
        """
        system = cls.model_fields["system"].default
        name, given = config.get("profile", cls.model_fields["profile"].default), config.get(system) or {}
        if not isinstance(given, Mapping):
            raise SettingsError(f"{system} (={given!r}): expected a mapping of settings, as in '{system}={{seed: 1}}'")
        values = _profile_sizes(profiles, name) if profiles else {}
        return cls.checked({**_merged(values, given), "profile": name})

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Self:
        """Validate `values`, turning pydantic's report into one SettingsError."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            system = cls.model_fields["system"].default
            raise SettingsError("\n".join(_readable(system, cls, item) for item in error.errors())) from None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Settings from a JSON or YAML file."""
        try:
            values = yaml.safe_load(Path(path).read_text())
        except (OSError, yaml.YAMLError) as error:
            raise SettingsError(f"settings file {path}: {error}") from None
        if not isinstance(values, dict):
            raise SettingsError(f"settings file {path}: holds {type(values).__name__}; expected a mapping")
        return cls.checked(values)

    def with_values(self, pairs: list[str]) -> Self:
        """A copy with `key=value` pairs applied (values are YAML; dots reach into nested models)."""
        values = self.model_dump(mode="json")
        for pair in pairs:
            key, sign, text = pair.partition("=")
            if not sign:
                raise SettingsError(f"--set {pair!r}: expected key=value")
            *path, last = key.split(".")
            place = values
            for part in path:
                place = place.get(part) if isinstance(place, dict) else None
            if not isinstance(place, dict):
                raise SettingsError(f"--set {pair!r}: {key} leads nowhere; known settings: {', '.join(values)}")
            place[last] = yaml.safe_load(text)
        return type(self).checked(values)

    def digest(self) -> str:
        """Twelve hex digits that change when any setting changes."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1)

    @classmethod
    def schema_json(cls) -> str:
        """The JSON schema as committed in `workflows/<system>/settings.schema.json`."""
        return json.dumps(cls.model_json_schema(), indent=2) + "\n"


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = _merged(out[key], value) if both else value
    return out


def _profile_sizes(path: Path, name: str) -> dict[str, Any]:
    sizes = yaml.safe_load(path.read_text()) or {}
    if name not in sizes:
        raise SettingsError(f"profile: {name!r} is unknown to {path}; expected one of {', '.join(sizes)}")
    return sizes[name] or {}


def _readable(system: str, model: type[BaseModel], item: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = list(model.model_fields) if len(item["loc"]) == 1 else []
        close = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}" if known else "see the schema"
        return f"{system}.{where} (={item['input']!r}): unknown setting; {hint}"
    if not where:
        return f"{system}: {item['msg'].removeprefix('Value error, ')}"
    return f"{system}.{where} (={item['input']!r}): {item['msg'].removeprefix('Value error, ')}"
