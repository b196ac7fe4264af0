"""Where a run's instances come from: the real sets where they are, else their twins; every answer says which."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from operators.lab import datasets
from operators.phwsoa import instance, swf, twins
from operators.phwsoa.instance import Instance

if TYPE_CHECKING:
    import polars as pl

LOG_SET, GOLDEN_SET, ETC_SET = "pwa-swf", "cloudsim-golden", "hcsp-etc"
FILES = {"nasa": "nasa_ipsc_1993_cln31.parquet", "hpc2n": "hpc2n_2002_cln22.parquet"}
TWIN_ROWS = 12_000


def jobs(log: str, root: Path | None, *, seed: int = 0) -> tuple["pl.DataFrame", str]:
    """Usable jobs of a log, and `real` or `synthetic`; `log` is `nasa`, `hpc2n` or the path of a log of one's own."""
    if log not in FILES:
        return swf.load_swf(log), "real"
    if datasets.present(LOG_SET, root):
        return swf.load_swf(datasets.path(LOG_SET, FILES[log], root)), "real"
    import polars as pl

    return twins.log_twin(log, TWIN_ROWS, seed).filter(pl.col("run_time") > 0), "synthetic"


def etc_instance(key: str, root: Path | None) -> tuple[Instance, str]:
    """An ETC instance of 512 tasks and 16 machines at one price; the twin equals the real matrix."""
    if datasets.present(ETC_SET, root):
        times, data = np.load(datasets.path(ETC_SET, "etc_seed0.npz", root))[key], "real"
    else:
        times, data = twins.etc_twin(key), "synthetic"
    return Instance(times.mean(1), np.ones(times.shape[1]), np.ones(times.shape[1]), etc=times), data


def golden(root: Path | None) -> "pl.DataFrame | None":
    """Real finish times of CloudSim 3.0.3, None where the set is not there (it has no twin)."""
    if not datasets.present(GOLDEN_SET, root):
        return None
    return datasets.read(GOLDEN_SET, "cloudsim303_golden.parquet", root)


def golden_instance(rows: "pl.DataFrame") -> tuple[Instance, np.ndarray]:
    """Instance and assignment of one case of the golden set, rows sorted by task."""
    m = int(rows["vm"].max()) + 1
    mips, room = np.ones(m), np.ones(m, np.int32)
    mips[rows["vm"]], room[rows["vm"]] = rows["vm_mips_per_pe"], rows["vm_pes"]
    made = instance.Instance(rows["length_mi"].to_numpy(), mips, np.ones(m), pes=rows["task_pes"].to_numpy(),
                             vm_pes=room)  # fmt: skip
    return made, rows["vm"].to_numpy()
