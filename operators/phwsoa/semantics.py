"""What CloudSim 3.0.3 does with an assignment: start and finish of every task, in numba (section 2.8 of the design).

Space-shared: tasks of a machine enter in order of their number; one starts at once when its PEs are free, else it
waits. When k tasks finish at one time, at most k waiting ones are started, each found by a first-fit scan of the
waiting list; free PEs may stay idle. Neither strict first-come-first-served (`fcfs`, also here) nor plain first-fit
gives these times. Time-shared: every running task gets `mips * min(1, vm_pes / PEs of running tasks)` per PE.

Departure: CloudSim adds 0.1 s for creating the machines and at least 0.1 s between events; both are left out, and the
golden test bounds what that costs.
"""

from typing import Literal

import numpy as np

from operators.lab.compiled import inner, kernel
from operators.phwsoa.instance import Instance

CLOUDSIM, FCFS, TIME = 0, 1, 2


@inner
def arrival_order(ids, count, release):
    """Positions of `ids[:count]` by release, then number: insertion, since tasks mostly come in that order."""
    order = np.empty(count, np.int64)
    for k in range(count):
        place = k
        while place > 0 and release[ids[order[place - 1]]] > release[ids[k]]:
            order[place] = order[place - 1]
            place -= 1
        order[place] = k
    return order


@inner
def run_space(ids, count, length, pes, release, mips, room, fcfs, start, finish):
    """Fill `start` and `finish` of the tasks `ids[:count]` (in order of number) on one machine of `room` PEs."""
    free, done, now, arrived = room, 0, 0.0, 0
    order = arrival_order(ids, count, release)
    waiting = np.empty(count, np.int64)
    running = np.empty(count, np.int64)
    waits, runs = 0, 0
    while done < count:
        now = np.inf
        for k in range(runs):
            now = min(now, finish[running[k]])
        if arrived < count:
            now = min(now, release[ids[order[arrived]]])
        ended, kept = 0, 0
        for k in range(runs):
            task = running[k]
            if finish[task] <= now:
                free += pes[task]
                ended += 1
            else:
                running[kept] = task
                kept += 1
        runs = kept
        done += ended
        turns = count if fcfs else ended
        while turns > 0 and waits > 0:
            found = -1
            for k in range(1 if fcfs else waits):
                if pes[waiting[k]] <= free:
                    found = k
                    break
            if found < 0:
                break
            task = waiting[found]
            for k in range(found, waits - 1):
                waiting[k] = waiting[k + 1]
            waits -= 1
            turns -= 1
            free -= pes[task]
            start[task] = now
            finish[task] = now + length[task] / mips
            running[runs] = task
            runs += 1
        while arrived < count and release[ids[order[arrived]]] <= now:
            task = ids[order[arrived]]
            arrived += 1
            if pes[task] <= free and not (fcfs and waits > 0):
                free -= pes[task]
                start[task] = now
                finish[task] = now + length[task] / mips
                running[runs] = task
                runs += 1
            else:
                waiting[waits] = task
                waits += 1


@inner
def run_time(ids, count, length, pes, release, mips, room, start, finish):
    """Fill `start` and `finish` under time sharing."""
    left = np.empty(count)
    state = np.zeros(count, np.int8)  # 0 not here yet, 1 running, 2 done
    for k in range(count):
        left[k] = length[ids[k]]
    now, done = 0.0, 0
    while done < count:
        used, coming = 0, np.inf
        for k in range(count):
            if state[k] == 0 and release[ids[k]] <= now:
                state[k] = 1
                start[ids[k]] = now
            if state[k] == 1:
                used += pes[ids[k]]
            elif state[k] == 0:
                coming = min(coming, release[ids[k]] - now)
        rate = mips * min(1.0, room / used) if used > 0 else mips
        least = np.inf
        for k in range(count):
            if state[k] == 1:
                least = min(least, left[k] / rate)
        step = min(least, coming)
        now += step
        for k in range(count):
            if state[k] == 1:
                left[k] -= step * rate
                if left[k] <= 1e-9 * length[ids[k]]:
                    state[k] = 2
                    done += 1
                    finish[ids[k]] = now


@kernel
def run_all(assign, length, pes, release, mips, vm_pes, mode, start, finish):
    """Every machine's tasks under one of the modes CLOUDSIM, FCFS, TIME."""
    n, m = assign.shape[0], mips.shape[0]
    ids = np.empty(n, np.int64)
    for vm in range(m):
        count = 0
        for i in range(n):
            if assign[i] == vm:
                ids[count] = i
                count += 1
        if count == 0:
            continue
        if mode == TIME:
            run_time(ids, count, length, pes, release, mips[vm], vm_pes[vm], start, finish)
        else:
            run_space(ids, count, length, pes, release, mips[vm], vm_pes[vm], mode == FCFS, start, finish)


def simulate(
    inst: Instance,
    assign,
    scheduler: Literal["space", "time"] = "space",
    semantics: Literal["cloudsim303", "fcfs"] = "cloudsim303",
) -> tuple[np.ndarray, np.ndarray]:
    """Start and finish (s) of every task, each `(n,)`, when `assign` (n,) runs on the machines of `inst`.

    Raises ValueError for an unknown scheduler or semantics or a gene that is no machine, InfeasibleTask for a task
    with more PEs than its machine.
    """
    if scheduler not in ("space", "time"):
        raise ValueError(f"scheduler (={scheduler!r}): expected 'space' or 'time'")
    if semantics not in ("cloudsim303", "fcfs"):
        raise ValueError(f"semantics (={semantics!r}): expected 'cloudsim303' or 'fcfs'")
    x = inst.check_assignment(assign).astype(np.int64)
    a = inst.arrays
    length, mips = a.length, a.mips
    if inst.etc is not None:  # a task's own time on its machine, at speed 1
        length, mips = inst.etc[np.arange(inst.n), x], np.ones(inst.m)
    start, finish = np.zeros(inst.n), np.zeros(inst.n)
    mode = TIME if scheduler == "time" else (FCFS if semantics == "fcfs" else CLOUDSIM)
    run_all(x, length, a.pes, a.release, mips, a.vm_pes, mode, start, finish)
    return start, finish
