"""Servers in network namespaces of their own, with their own addresses."""

import subprocess

import pytest

from operators.batann import namespaces
from operators.batann.client import Plan
from operators.batann.engine import native_core
from operators.batann.layout import open_index
from operators.batann.local import LocalCluster
from tests.batann import folders


def test_hosts_with_their_own_addresses_answer_as_one_process():
    if native_core() is None:
        pytest.skip("the native core is not built")
    expected = LocalCluster(open_index(folders.index(1))).search(folders.queries(), 10, 30, 1)
    try:
        result = namespaces.search(folders.index(3), folders.queries(), 3, Plan(10, 30, 1, timeout_s=30.0))
    except namespaces.NamespacesRefused as refused:
        pytest.skip(f"network namespaces are not allowed here: {refused}")
    assert result.ids.tolist() == expected.ids.tolist()
    assert result.stats["handoffs"].sum() > 0
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert f"pgn{namespaces.os.getpid() % 60_000}-" not in left
