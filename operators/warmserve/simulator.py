"""The cluster simulator: the manager and its loops in simulated time, over the compiled event loop (paper, simulation).

Control events (ticks, loads, starts) are few and run in Python through the same `Manager` that drives real workers;
requests and steps run in `simulate_core`. Departure: weights load at the cold-start model's rate, one at a time a GPU.
"""

import heapq
import itertools
from dataclasses import dataclass

import numpy as np

from operators.warmserve import autoscale, catalogue, muxserve, plane, simulate_core
from operators.warmserve.cluster_state import COMPLETE, CREATING, RUNNING, Cluster, Instance, Replica
from operators.warmserve.errors import ConfigError, InvariantError
from operators.warmserve.loadchannel import LoadChannel
from operators.warmserve.manager import HIT, ON_DEMAND, ON_LOADING, Manager
from operators.warmserve.oracle import Forecaster, History
from operators.warmserve.policies import policy
from operators.warmserve.settings import Settings

LONGEST_S = 48 * 3600.0
START_CODES = {HIT: plane.KIND_HIT, ON_LOADING: plane.KIND_LOADING, ON_DEMAND: plane.KIND_ONDEMAND}


@dataclass
class Trace:
    """Requests sorted by arrival: seconds, index of the model, tokens in and out (all of length n)."""

    arrival_s: np.ndarray
    model: np.ndarray
    input_tokens: np.ndarray
    output_tokens: np.ndarray


@dataclass
class Result:
    """What a run left: the request arrays, events, timeline rows, ledger, forecasts, and the time it ended."""

    plane: plane.Plane
    cluster: Cluster
    forecasts: list[tuple]
    end_s: float


def simulate(
    trace: Trace,
    settings: Settings,
    history: History,
    *,
    name: str = "warmserve",
    cold: str = "w5",
    process_pool: bool = True,
    nodes: int | None = None,
    validate: bool = False,
    native: bool | None = None,
) -> Result:
    """Serve a trace under one policy.

    Args:
        trace: the requests
        settings: sizes and constants
        history: load of past days, and of the trace itself for the oracle
        name: the policy (see policies.py)
        cold: cold-start model, `w5` or `pcie`
        process_pool: whether policies that keep processes ready have them
        nodes: nodes of the cluster (default: the settings')
        validate: check every invariant after every control event
        native: the native event loop or its stand-in (default: native where it was built)
    """
    options = {"cold": cold, "process_pool": process_pool, "nodes": nodes, "validate": validate, "native": native}
    return Run(trace, settings, history, name=name, **options).run()


class Run:
    """One run, see `simulate`."""

    def __init__(
        self,
        trace: Trace,
        settings: Settings,
        history: History,
        *,
        name: str = "warmserve",
        cold: str = "w5",
        process_pool: bool = True,
        nodes: int | None = None,
        validate: bool = False,
        native: bool | None = None,
    ):
        rules, nodes = policy(name), nodes or settings.nodes
        self.settings, self.rules, self.check = settings, rules, validate
        models = catalogue.models(settings, cold)
        _check_fits(trace, models)
        self.cluster = Cluster(
            *(models, nodes, settings.gpus_per_node, catalogue.pool_bytes(settings), settings.slots),
            laminar=rules.placement == "aware" and rules.prewarm,
        )
        self.manager = Manager(self.cluster, rules, settings, self._usage)
        self.pool = rules.ready_processes and process_pool
        gpus = nodes * settings.gpus_per_node
        spatial = muxserve.layout(models, history, nodes, settings) if rules.scale == "spatial" else None
        self.p = plane.plane(
            *(trace.arrival_s, trace.model, trace.input_tokens, trace.output_tokens),
            **{"slots": max(gpus, len(spatial or ())), "models": len(models)},
            **{"batch": plane.NO_LIMIT if spatial else settings.batch, "poll_s": settings.poll_s},
            **{"step_engine": settings.engine == "step", "max_seqs": settings.max_seqs},
            **{
                "token_budget": settings.token_budget,
                "near": 1 + max((len(one.near) for one in spatial or ()), default=0),
            },
        )
        self.loop = simulate_core.loop(self.p, native=native)
        self.channel, self.slot_of, self.pending = LoadChannel(gpus), {}, []
        self.free_slots, self.order = list(range(gpus - 1, -1, -1)), itertools.count()
        self.averages = [autoscale.LoadAverage(settings.scale_window_s, settings.tick_s) for _ in models]
        self.window_s = rules.window_s or settings.window_s
        self.forecaster = Forecaster(
            *(history, [model.name for model in models]),
            **{"window_s": self.window_s, "n_recent": settings.n_recent, "order": settings.order},
            **{"burst": settings.burst, "band_level": settings.band_level, "truth": rules.forecast == "oracle"},
        )
        self.integral, self.at_window = np.zeros(len(models)), np.zeros(len(models))
        if spatial:
            self._place_spatial(spatial)

    # The loop ------------------------------------------------------------------------------------------------------

    def run(self) -> Result:
        if self.rules.scale != "spatial":
            self._at(0.0, self._window)
            self._at(0.0, self._start_fixed if self.rules.scale == "fixed" else self._tick)
        while True:
            until = self.pending[0][0] if self.pending else np.inf
            reason, a, b = self.loop.advance(until)
            self.cluster.now = float(self.p.now[0])
            if reason == plane.FINISHED:
                break
            if reason == plane.REACHED:
                if not self.pending or self.cluster.now > LONGEST_S:
                    raise InvariantError(f"{len(self.p.r_arrival) - self.p.n[plane.DONE]} requests wait for ever")
                _, _, call, argument = heapq.heappop(self.pending)
                call(argument)
                self._act()
            else:
                self._answer(reason, int(a), int(b))
            if self.check:
                self.cluster.validate()
        self.cluster.finish()
        self.cluster.ledger.validate()
        return Result(self.p, self.cluster, self.forecaster.record(), self.cluster.now)

    def _at(self, time: float, call, argument=None) -> None:
        heapq.heappush(self.pending, (time, next(self.order), call, argument))

    def _answer(self, reason: int, a: int, b: int) -> None:
        """What the event loop asks of the control plane."""
        while reason != plane.REACHED:
            if reason == plane.CREATE:
                reason, a, b = self._create_for(a, b)
            elif reason == plane.ENDED:
                reason, a, b = self._ended(a)
            else:
                self.manager.take_back(self._instance(a).id)
                self._act()
                reason, a, b = self.loop.resume(a)

    def _create_for(self, model: int, request: int) -> tuple[int, int, int]:
        instance = None if self.rules.scale == "fixed" else self.manager.create(model)
        if instance is None:
            self.p.m_may_create[model] = 0
            self.loop.put_off(request)
        else:
            self._act()
            self.loop.attach(self.slot_of[instance.id], request)
        return plane.REACHED, 0, 0

    def _instance(self, slot: int) -> Instance:
        return self.cluster.instances[int(self.p.s_engine[slot])]

    def _ended(self, slot: int) -> tuple[int, int, int]:
        instance = self._instance(slot)
        self.manager.ended(instance.id)
        self._free_slot(instance)
        self._act()
        self.p.m_may_create[:] = 1
        return plane.REACHED, 0, 0

    # Ticks ---------------------------------------------------------------------------------------------------------

    def _sample(self) -> np.ndarray:
        self.loop.sample_load(self.cluster.now, self.integral)
        return self.integral

    def _window(self, _) -> None:
        """A forecast window begins."""
        seconds, now = self._sample(), self.cluster.now
        if now > 0:
            self.forecaster.observe((seconds - self.at_window) / self.window_s, self.p.m_peak)
        self.at_window = seconds.copy()
        self.p.m_peak[:] = 0
        self.manager.set_forecast(*self.forecaster.next())
        self._at(now + self.window_s, self._window)

    def _tick(self, _) -> None:
        seconds, now = self._sample(), self.cluster.now
        load = [average.add(now, seconds[model]) for model, average in enumerate(self.averages)]
        if self.rules.scale == "load":
            self.manager.autoscale(load)
        else:
            self._follow_forecast(load)
        self._act()
        self.manager.prewarm()
        self._at(now + self.settings.tick_s, self._tick)

    def _follow_forecast(self, load: list[float]) -> None:
        """Dedicated instances for the forecast peak, started one cold start before the window begins.

        The autoscaler's rule holds beside it: more where the load asks for more, fewer only where both allow it.
        """
        for model, spec in enumerate(self.cluster.models):
            count = len(self.cluster.of_model(model, RUNNING, CREATING))
            target = int(-(-self.manager.peak[model] // self.settings.batch))
            lead = spec.engine_s + spec.load_s + spec.hot_s
            if (self.cluster.now + lead) // self.window_s > self.cluster.now // self.window_s:
                target = max(target, int(-(-self._next_peak(model) // self.settings.batch)))
            by_load = autoscale.change(
                load[model], count, self.settings.batch, self.settings.scale_low, self.settings.scale_high
            )
            change = max(target - count, by_load)
            if not self.manager.resize(model, change, "forecast"):
                return

    def _next_peak(self, model: int) -> float:
        """Season's peak of the window after this one: all that is known a cold start ahead."""
        past = self.forecaster.past_peak[model]
        window = len(self.forecaster.seen_peak[model]) + 1
        return float(np.nanmean(past[:, window])) if window < past.shape[1] else 0.0

    def _start_fixed(self, _) -> None:
        """Replicas by mean load, once; at least one of each."""
        for model in range(len(self.cluster.models)):
            mean = float(np.mean(self.forecaster.past_mean[model]))
            self.manager.resize(model, max(1, int(-(-mean // self.settings.batch))), "fixed")

    # Actions -------------------------------------------------------------------------------------------------------

    def _act(self) -> None:
        """Carry out what the manager decided."""
        for action in self.manager.drain_actions():
            if action.kind == "load":
                self._begin_loads(self.channel.add(action.replica))
            elif action.kind in ("cancel", "drop"):
                self._begin_loads(self.channel.remove(action.replica))
            elif action.kind == "start":
                self._start(action.instance, action.replica)
            elif action.kind == "stop":
                self._stop(action.instance)
            else:
                self._set_limit(action.instance)

    def _begin_loads(self, replicas: list[Replica]) -> None:
        for replica in replicas:
            self.manager.loading(replica)
            self._at(self.cluster.now + self.cluster.models[replica.model].load_s, self._load_ends, replica)

    def _load_ends(self, replica: Replica) -> None:
        if self.cluster.replicas.get(replica.id) is not replica or replica.state == COMPLETE:
            return  # cancelled meanwhile
        self.manager.loaded(replica)
        self._begin_loads(self.channel.remove(replica))
        if replica.instance is not None:
            self._ready_after(self.cluster.instances[replica.instance], loaded_now=True)

    def _start(self, instance: Instance, replica: Replica) -> None:
        p, slot, model = self.p, self.free_slots.pop(), self.cluster.models[instance.model]
        self.slot_of[instance.id] = slot
        code = plane.KIND_HIT if self.rules.always_hit else START_CODES[instance.start_kind]
        p.s_state[slot], p.s_model[slot], p.s_engine[slot], p.s_kind[slot] = (
            plane.CREATING,
            instance.model,
            instance.id,
            code,
        )
        _fresh_slot(p, slot, model, model.kv_blocks)
        p.s_ready[slot] = np.inf
        p.m_creating[instance.model] += 1
        self._list_slot(instance.model, slot)
        if replica.state == COMPLETE:
            self._ready_after(instance, loaded_now=False)

    def _list_slot(self, model: int, slot: int) -> None:
        self.p.m_slots[model, self.p.m_slot_count[model]] = slot
        self.p.m_slot_count[model] += 1

    def _ready_after(self, instance: Instance, *, loaded_now: bool) -> None:
        """The weights lie there: when does it serve? A fresh engine's start contains what `hot_s` stands for."""
        model = self.cluster.models[instance.model]
        engine = 0.0 if self.pool or self.rules.always_hit else model.engine_s
        hot = 0.0 if engine > 0 and loaded_now else model.hot_s
        self._at(self.cluster.now + engine + hot, self._ready, instance)

    def _ready(self, instance: Instance) -> None:
        self.manager.ready(instance.id)
        slot = self.slot_of[instance.id]
        self.p.s_state[slot], self.p.s_ready[slot] = plane.RUNNING, self.cluster.now
        self.p.m_creating[instance.model] -= 1
        self._answer(*self.loop.resume(slot))

    def _stop(self, instance: Instance) -> None:
        slot = self.slot_of[instance.id]
        self.p.s_state[slot] = plane.STOPPING
        if self.p.s_count[slot] == 0:
            self._answer(*self.loop.resume(slot))

    def _set_limit(self, instance: Instance) -> None:
        if instance.id in self.slot_of:
            self.loop.set_limit(self.slot_of[instance.id], instance.kept)

    def _free_slot(self, instance: Instance) -> None:
        p, slot = self.p, self.slot_of.pop(instance.id)
        p.s_state[slot], p.s_engine[slot] = plane.FREE, -1
        count = p.m_slot_count[instance.model]
        row = p.m_slots[instance.model]
        kept = [one for one in row[:count] if one != slot]
        row[: count - 1] = kept
        p.m_slot_count[instance.model] -= 1
        self.free_slots.append(slot)

    def _usage(self, identity: int) -> tuple[int, int]:
        slot = self.slot_of[identity]
        return int(self.p.s_count[slot]), int(self.p.s_used[slot])

    def _place_spatial(self, layout: list["muxserve.Share"]) -> None:
        for slot, share in enumerate(layout):
            p = self.p
            p.s_state[slot], p.s_model[slot], p.s_engine[slot] = plane.RUNNING, share.model, slot
            _fresh_slot(p, slot, self.cluster.models[share.model], share.kv_blocks)
            p.s_near[slot, : len(share.near)] = share.near
            self._list_slot(share.model, slot)


def _fresh_slot(p: plane.Plane, slot: int, model: catalogue.Model, kv_blocks: int) -> None:
    p.s_count[slot] = p.s_running[slot] = p.s_new[slot] = p.s_used[slot] = p.s_context[slot] = 0
    p.s_head[slot] = p.s_tail[slot] = -1
    p.s_phase[slot], p.s_limit[slot], p.s_cap[slot] = plane.IDLE, kv_blocks, kv_blocks
    p.s_block[slot] = catalogue.KV_TOKENS
    p.s_coef[slot] = 0.0
    if model.linear is None:
        p.s_coef[slot, 1], p.s_coef[slot, 4] = model.prefill_s, model.decode_s
    else:  # prefill: a step and its tokens; decode: a step, its requests, their context
        step, token, request, context = model.linear
        p.s_coef[slot, [0, 2]], p.s_coef[slot, 4:7] = (step, token), (step, request, context)


def _check_fits(trace: Trace, models: list[catalogue.Model]) -> None:
    tokens = np.asarray(trace.input_tokens, np.int64) + np.asarray(trace.output_tokens, np.int64) + 1
    if len(trace.model) and (np.min(trace.model) < 0 or np.max(trace.model) >= len(models)):
        raise ConfigError(f"trace: model {int(np.max(trace.model))}; expected 0 to {len(models) - 1}")
    most = np.array([model.kv_blocks for model in models])[trace.model] * catalogue.KV_TOKENS
    bad = np.flatnonzero(tokens > most)
    if len(bad):
        row = int(bad[0])
        raise ConfigError(
            f"trace row {row}: {tokens[row] - 1} tokens; expected at most {most[row] - 1} (KV of an engine)"
        )
