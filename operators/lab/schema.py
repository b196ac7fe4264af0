"""Write a system's JSON schema, for editors to complete settings, beside its workflow."""

import argparse
import importlib
from pathlib import Path

from operators.lab import stage


def main(argv: list[str] | None = None) -> None:
    """Write workflows/<system>/settings.schema.json from the system's settings class."""
    parser = argparse.ArgumentParser(prog="python -m operators.lab.schema", description=main.__doc__)
    parser.add_argument("systems", nargs="+")
    options = parser.parse_args(argv)
    for system in options.systems:
        settings = importlib.import_module(f"operators.{system}.settings").Settings
        target = Path(__file__).parents[2] / "workflows" / system / "settings.schema.json"
        with stage.atomic(target) as temporary:
            temporary.write_text(settings.schema_json())


if __name__ == "__main__":
    main()
