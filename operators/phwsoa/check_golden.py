"""Stage `check_golden`: our model of CloudSim's schedulers against finish times of real CloudSim 3.0.3 runs."""

from pathlib import Path
from typing import Any

from operators.lab import stage
from operators.phwsoa.settings import Settings


def __getattr__(name: str) -> Any:
    if name == "SCHEMA":
        from operators.phwsoa import tables

        return tables.schema("golden")
    raise AttributeError(name)


def main(*, settings: Settings, out: Path, data: Path | None = None) -> None:
    """Simulate all cases of the golden set; an empty table where the set is not there (it has no twin).

    Args:
        out: one row per case, scheduler and task (runs/golden.parquet)
        data: data root
    """
    from operators.phwsoa import semantics, sources, tables

    frame, rows = sources.golden(data), []
    if frame is not None:
        for (case, scheduler), part in frame.sort("case", "scheduler", "task").group_by(
            "case", "scheduler", maintain_order=True
        ):
            made, assign = sources.golden_instance(part)
            start, finish = semantics.simulate(made, assign, scheduler)
            for task, known in enumerate(part["finish_s"]):
                rows.append({"case": case, "scheduler": scheduler, "task": task, "start": float(start[task]),
                             "finish": float(finish[task]), "golden_finish": known,
                             "error": abs(float(finish[task]) - known), "data": "real"})  # fmt: skip
    tables.write("golden", rows, out, settings, data=None if rows else "synthetic")


if __name__ == "__main__":
    stage.run(main)
