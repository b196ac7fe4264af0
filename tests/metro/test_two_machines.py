"""METRO's ranks on a Ray cluster of two machines (two raylets): placed on both, same output, joined by RAY_ADDRESS."""

import os
import secrets
import subprocess
import sys

import numpy as np
import pytest

from operators.lab import cluster as head

# In a process of its own: ray reads its environment when it is imported.
SCRIPT = """
import os, sys, time
import numpy as np
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from ray.cluster_utils import Cluster as Machines
from operators.lab import cluster as head
from operators.metro import actors, experts
from operators.metro.placement import place

def wait_until_raylets_know_each_other(ray):
    "Each learns of the others a moment after the cluster calls them alive; until then nothing is placed there."

    def reach(node):
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        ray.get(ray.remote(lambda: None).options(num_cpus=0, scheduling_strategy=there).remote())

    nodes = [node["NodeID"] for node in ray.nodes()]
    for first, last in [(nodes[0], nodes[1]), (nodes[1], nodes[0])]:
        while True:
            try:
                here = NodeAffinitySchedulingStrategy(first, soft=False)
                ray.get(ray.remote(reach).options(num_cpus=0, scheduling_strategy=here).remote(last))
                break
            except (ray.exceptions.TaskUnschedulableError, ray.exceptions.RayTaskError):
                time.sleep(0.05)

machine = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "node_ip_address": "127.0.0.1"}
machines = Machines(initialize_head=True, head_node_args={**machine, "include_dashboard": False})
try:
    machines.add_node(**machine)
    machines.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = machines.address
    load = np.arange(16, 0, -1.0)[None]
    placement = place(load, 24, 4)
    rng = np.random.default_rng(0)
    topk = np.stack([rng.permutation(16)[:4] for _ in range(12)])
    x, gates = rng.standard_normal((12, 32), np.float32), rng.random((12, 4), np.float32)
    with head.connect() as ray:
        wait_until_raylets_know_each_other(ray)
        with actors.Cluster(ray, placement, router="metro", width=12, hidden=32, seed=3, deadline_s=60) as ranks:
            result = ranks.step(0, x, topk, gates)
            nodes = [ranks.ask(rank, "hello")[1] for rank in range(4)]
    np.savez(sys.argv[1], output=result.output, nodes=np.array(nodes), x=x, topk=topk, gates=gates)
finally:
    machines.shutdown()
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory, repository):
    out = tmp_path_factory.mktemp("machines") / "found.npz"
    environment = {**os.environ, **head.RAY_ENVIRONMENT, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(out)],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(out))


def test_ranks_lie_on_both_machines(found):
    nodes, counts = np.unique(found["nodes"], return_counts=True)
    assert len(nodes) == 2
    assert counts.tolist() == [2, 2]


def test_the_output_is_the_dense_layers(found):
    from operators.metro import experts

    made = lambda expert: experts.generate(expert, seed=3, layer=0, width=12, hidden=32)  # noqa: E731
    expected = experts.dense(found["x"], found["topk"], found["gates"], made)
    np.testing.assert_allclose(found["output"], expected, rtol=1e-4, atol=1e-5)
