"""What there is and what it costs: systems, targets, profiles, and expected minutes from past benchmarks."""

import argparse
import csv
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path

from operators.lab.settings import PROFILES

TARGETS = {
    "all": "every system: measures, claims, figures",
    "<system>": "one system",
    "claims": "the claims table of every system",
    "bench": "every system beside its peers",
    "report": "results/report.html: claims, figures, run times, settings",
    "budget": "expected minutes per system and profile",
    "help": "this page",
}
RUN_KEYS = ("profile", "data", "head")


def systems(root: Path) -> list[str]:
    """Names of the systems: every folder of workflows/ with a Snakefile."""
    return sorted(path.parent.name for path in Path(root, "workflows").glob("*/Snakefile"))


def check_config(config: Mapping, known: list[str]) -> None:
    """Raise ValueError for a configuration key or profile that does not exist, listing what does."""
    for key in config:
        if key not in (*RUN_KEYS, *known):
            raise ValueError(f"config key {key!r}: unknown{_close(key, [*RUN_KEYS, *known])}")
    if config.get("profile", PROFILES[0]) not in PROFILES:
        raise ValueError(f"profile {config['profile']!r}: unknown{_close(str(config['profile']), PROFILES)}")


def unknown_target(word: str, known: list[str]) -> str:
    """What to say about a target that is none."""
    names = [name for name in TARGETS if not name.startswith("<")] + known
    return f"target {word!r}: unknown{_close(word, names)}"


def refuse(word: str, known: list[str]) -> None:
    """End the run because `word` is no target."""
    raise SystemExit(f"error: {unknown_target(word, known)}")


def _close(word: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return (f"; did you mean {close[0]!r}?" if close else ";") + f" there are {', '.join(known)}"


def minutes(root: Path, system: str) -> dict[str, float]:
    """Stage minutes of one system by profile, summed over the latest benchmark of each rule."""
    found = {}
    for profile in PROFILES:
        seconds = [_seconds(path) for path in Path(root, "results", system, "benchmarks", profile).glob("*.tsv")]
        if seconds:
            found[profile] = sum(seconds) / 60
    return found


def _seconds(path: Path) -> float:
    with open(path) as stream:
        return sum(float(row["s"]) for row in csv.DictReader(stream, delimiter="\t"))


def title(root: Path, system: str) -> str:
    """What a system is: the first heading of its README after its name."""
    first = Path(root, "workflows", system, "README.md").read_text().splitlines()[0]
    return first.lstrip("# ").partition(": ")[2] or first.lstrip("# ")


def main(argv: list[str] | None = None) -> None:
    """Print systems, targets and profiles, or expected minutes only (--budget)."""
    parser = argparse.ArgumentParser(prog="python -m operators.lab.overview", description=main.__doc__)
    parser.add_argument("--budget", action="store_true")
    parser.add_argument("--check", nargs=2, metavar=("SYSTEM", "PROFILE"), help="fail unless both exist")
    options = parser.parse_args(argv)
    root = Path(__file__).parents[2]
    if options.check:
        system, profile = options.check
        try:
            check_config({"profile": profile}, systems(root))
            if system not in ("all", *systems(root)):
                raise ValueError(unknown_target(system, systems(root)))
        except ValueError as error:
            parser.exit(2, f"{error}\n")
        return
    print("systems (stage minutes on this machine by profile, from past runs)")
    for system in systems(root):
        past = ", ".join(f"{profile} {value:.1f}" for profile, value in minutes(root, system).items()) or "not run yet"
        print(f"  {system:<12} {title(root, system)} [{past}]")
    if not options.budget:
        print("targets: snakemake --profile profiles/<profile> <target>")
        for name, text in TARGETS.items():
            print(f"  {name:<12} {text}")
        print(f"profiles: {', '.join(PROFILES)} (how big); ray, slurm, kubernetes (where)")
        print("settings: --config '<system>={seed: 1}'; data: --config data=DIR, or data=synthetic for twins")


if __name__ == "__main__":
    main()
