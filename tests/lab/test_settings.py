"""Settings: precedence, errors that name key and value, schema."""

from typing import Literal

import pytest

from operators.lab import settings as lab
from operators.lab.settings import SettingsError, field


class Settings(lab.Settings):
    system: Literal["demo"] = field("demo", unit="name", source="test")
    rows: int = field(10, unit="rows", source="test", ge=1)
    names: tuple[str, ...] = field(("a",), unit="names", source="test")


@pytest.fixture
def profiles(tmp_path):
    path = tmp_path / "profiles.yaml"
    path.write_text("ci: {rows: 2}\nlaptop: {}\n")
    return path


def test_user_values_win_over_profile_and_profile_over_defaults(profiles):
    assert Settings.from_config({}, profiles).rows == 10
    assert Settings.from_config({"profile": "ci"}, profiles).rows == 2
    assert Settings.from_config({"profile": "ci", "demo": {"rows": "7"}}, profiles).rows == 7


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"demo": {"rowz": 1}}, ["demo.rowz", "1", "did you mean 'rows'"]),
        ({"demo": {"rows": 0}}, ["demo.rows", "0", "greater than or equal to 1"]),
        ({"demo": {"names": 3}}, ["demo.names", "3"]),
        ({"demo": 5}, ["demo", "5", "mapping"]),
        ({"profile": "huge"}, ["huge", "ci, laptop"]),
    ],
)
def test_errors_name_key_value_and_what_was_expected(config, words, profiles):
    with pytest.raises(SettingsError) as caught:
        Settings.from_config(config, profiles)
    for word in words:
        assert word in str(caught.value)


def test_set_pairs_reach_fields_and_refuse_nonsense():
    assert Settings.checked({}).with_values(["rows=3"]).rows == 3
    with pytest.raises(SettingsError, match="key=value"):
        Settings.checked({}).with_values(["rows"])
    with pytest.raises(SettingsError, match="leads nowhere"):
        Settings.checked({}).with_values(["nothing.rows=3"])


def test_a_settings_file_round_trips_and_a_broken_one_is_refused(tmp_path):
    path = tmp_path / "settings.json"
    made = Settings.checked({"rows": 4})
    path.write_text(made.to_json())
    assert Settings.load(path) == made
    assert Settings.load(path).digest() == made.digest() != Settings.checked({}).digest()
    path.write_text("- 1")
    with pytest.raises(SettingsError, match="expected a mapping"):
        Settings.load(path)
