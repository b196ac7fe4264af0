"""The executor: pure machines and broker under random faults; real processes that are killed and stopped."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.phwsoa import heuristics
from operators.phwsoa.executor import execute
from operators.phwsoa.instance import Instance
from operators.phwsoa.machine import AllLost, Broker, VirtualMachine


def test_a_machine_runs_one_task_at_a_time_and_gives_back_only_waiting_ones():
    vm = VirtualMachine()
    vm.enqueue([(0, 1.0), (1, 2.0), (2, 3.0)])
    assert vm.begin(0.0) == (0, 1.0)
    assert vm.withdraw([0, 2]) == [2]
    with pytest.raises(ValueError, match="one at a time"):
        vm.begin(0.5)
    vm.complete(1.0)
    assert vm.collect() == ([(0, 0.0, 1.0)], None, [1])
    with pytest.raises(ValueError, match="here already"):
        vm.enqueue([(1, 1.0)])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_task_finishes_once_whatever_is_lost(data):
    n, m = data.draw(st.integers(1, 20)), data.draw(st.integers(2, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    broker = Broker(rng.integers(0, m, n), rng.uniform(1, 5, (n, m)))
    machines = [VirtualMachine() for _ in range(m)]
    for task, vm in enumerate(broker.owner):
        machines[vm].enqueue([(task, 1.0)])
    losses = data.draw(st.lists(st.integers(0, m - 1), max_size=m - 1, unique=True))
    for step in range(20 * n + 20):
        for machine in machines:
            if machine.running:
                machine.complete(step + 1.0)
            machine.begin(float(step))
        if losses and step % 2:
            vm = losses.pop()
            for target, tasks in broker.lost(vm).items():
                machines[target].enqueue((task, 1.0) for task in tasks)
        reports = {vm: machine.collect() for vm, machine in enumerate(machines)}
        for vm, (batch, _, _) in reports.items():
            broker.completed(vm, batch)
        move = broker.tick({vm: waiting for vm, (_, _, waiting) in reports.items()})
        if move:
            source, target, tasks = move
            gone = machines[source].withdraw(tasks)
            broker.hand_over(gone, target)
            machines[target].enqueue((task, 1.0) for task in gone)
        broker.validate()
        if broker.done.all():
            break
    assert sorted(record[0] for record in broker.records) == list(range(n))


def test_with_all_machines_lost_it_is_an_error():
    broker = Broker(np.array([0, 1]), np.ones((2, 2)))
    broker.lost(0)
    with pytest.raises(AllLost, match="2 tasks"):
        broker.lost(1)


@pytest.fixture(scope="module")
def plan() -> tuple[Instance, np.ndarray]:
    made = Instance(np.random.default_rng(0).uniform(5e4, 2e5, 24), np.full(3, 1000.0), np.ones(3))
    return made, heuristics.lpt(made)


@pytest.mark.parametrize("fault", [{"kill": [(0.15, 1)]}, {"stop": [(0.15, 1, 0.0)]}], ids=["kill", "stop"])
def test_a_killed_or_stopped_machine_loses_no_task(fault, plan, ray_head):
    made, x = plan
    table = execute(made, x, time_scale=1e-3, interval_s=0.2, address=ray_head, **fault)
    assert table["task"].to_list() == list(range(24))
    assert table["attempts"].max() == 2
    again = table.filter(table["attempts"] == 2)
    assert (again["vm"] != 1).all()
    assert (table["finish"] > table["start"]).all()


def test_a_machine_that_is_slow_or_stopped_for_a_while_is_not_lost(plan, ray_head):
    made, x = plan
    table = execute(made, x, time_scale=1e-3, interval_s=2.0, address=ray_head, redistribute=False,
                    stop=[(0.1, 1, 0.4)], slow=[(0.0, 2, 3.0, 0.3)])  # fmt: skip
    assert table["vm"].to_list() == x.tolist()
    assert (table["attempts"] == 1).all()
    late = table.with_columns(by=table["finish"] - table["planned_finish"])
    assert late.filter(late["vm"] == 2)["by"].max() > 50  # three times a task of at least 50 s
    with pytest.raises(ValueError, match=r"slow \(vm 9\)"):
        execute(made, x, time_scale=1, slow=[(0.0, 9, 2.0, 0.0)])


@pytest.mark.slow
def test_nothing_is_moved_from_a_machine_that_owes_an_answer(plan, ray_head):
    made, _ = plan
    x = np.array([0, 2] + 22 * [1])  # machine 1 is the fullest, and silent for less than three intervals
    table = execute(made, x, time_scale=1e-3, interval_s=1.5, address=ray_head, stop=[(0.1, 1, 2.5)])
    assert (table["attempts"] == 1).all()
    assert (table["vm"] != 1).any()  # once it answers again its tasks are moved


def test_an_undisturbed_plan_runs_as_planned_and_all_killed_is_an_error(plan, ray_head):
    made, x = plan
    table = execute(made, x, time_scale=1e-3, interval_s=0.2, address=ray_head, redistribute=False)
    assert table["vm"].to_list() == x.tolist()
    assert (table["attempts"] == 1).all()
    assert table["finish"].max() >= 0.99 * table["planned_finish"].max()
    with pytest.raises(AllLost):
        execute(made, x, time_scale=1e-3, interval_s=0.2, address=ray_head, kill=[(0.1, vm) for vm in range(3)])


def test_impossible_requests_are_refused(plan):
    made, x = plan
    with pytest.raises(ValueError, match="time_scale"):
        execute(made, x, time_scale=0)
    with pytest.raises(ValueError, match=r"kill \(vm 7\)"):
        execute(made, x, time_scale=1, kill=[(0, 7)])
    with pytest.raises(ValueError, match="'sleep' or 'burn'"):
        execute(made, x, time_scale=1, work="think")
