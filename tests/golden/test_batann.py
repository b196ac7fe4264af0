"""Blessed work of BatANN at 10,000 vectors of the twin. A change here is a decision.

Means of 200 queries: hops, reads and PQ distances of one server, share of hops between ten servers (own graph
partition), reads and bytes a state on ten. They change with the twin's constants, with the builder's or the
partitioner's rule, or with the order in which a beam is explored - and with nothing else. Compared within half a
percent, because the twin goes through LAPACK, whose last bits differ between machines.
"""

import numpy as np
import pytest

from operators.batann import sift
from operators.batann.build import Build
from operators.batann.engine import native_core
from operators.batann.layout import open_index
from operators.batann.local import LocalCluster
from operators.batann.metric import stored
from operators.batann.settings import Settings

pytestmark = pytest.mark.golden

# (W, L): hops, reads, pq_dists of one server; share, reads, state bytes of ten
BLESSED = {
    0: {
        (1, 20): (21.1, 21.1, 968.5, 0.5294, 21.1, 384.32),
        (1, 40): (40.73, 40.73, 1785.165, 0.5615, 40.73, 650.58),
        (4, 20): (6.47, 24.675, 1142.65, 0.4517, 22.94, 395.43),
    },
    1: {
        (1, 20): (21.015, 21.015, 989.415, 0.5349, 21.015, 384.35),
        (1, 40): (40.745, 40.745, 1834.465, 0.5673, 40.745, 651.17),
        (4, 20): (6.45, 24.565, 1158.355, 0.476, 22.87, 395.75),
    },
}


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_work_of_ten_thousand_vectors(seed, tmp_path):
    if native_core() is None:
        pytest.skip("the native core is not built: the graph partition needs it")
    found = sift.load(10_000, 200, 10, root=None, seed=seed)
    build = Build(tmp_path, stored(found.base), Settings.checked({"n": 10_000, "seed": seed}), 2)
    index, part = open_index(build.layout("gp", 1)), build.partition("gp", 10)
    for (W, L), blessed in BLESSED[seed].items():
        one = LocalCluster(index).search(found.queries, 10, L, W)
        ten = LocalCluster(index, part_of=part).search(found.queries, 10, L, W)
        measured = [one.mean(name) for name in ("hops", "reads", "pq_dists")]
        measured += [ten.share, ten.mean("reads"), float(np.mean(ten.state_bytes))]
        np.testing.assert_allclose(measured, blessed, rtol=5e-3, err_msg=f"W={W}, L={L}")
