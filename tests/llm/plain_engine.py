"""The scheduling rules once more, token by token with lists and no shared clock: what the engine is compared with."""

from collections import deque


class Sequence:
    def __init__(self, i, arrival, inputs, outputs):
        self.i, self.arrival, self.inputs, self.outputs = i, arrival, inputs, outputs
        self.known, self.computed, self.blocks = inputs, 0, 0
        self.first = self.last = None
        self.preempted, self.decodes = 0, False


class Plain:
    """One instance; `step_s(p, n, k, q, m)` gives the time of a step."""

    def __init__(self, step_s, scheduler, max_seqs, budget, kv_tokens, block):
        self.step_s, self.scheduler, self.max_seqs, self.budget, self.block = step_s, scheduler, max_seqs, budget, block
        self.free = None if kv_tokens is None else kv_tokens // block
        self.waiting, self.running, self.now, self.steps = deque(), [], 0.0, 0

    def take(self, seq, tokens):
        """Blocks for the next `tokens`; False when there are too few."""
        need = -(-(seq.computed + tokens) // self.block) - seq.blocks
        if self.free is not None:
            if need > self.free:
                return False
            self.free -= need
        seq.blocks += need
        return True

    def drop(self, seq):
        if self.free is not None:
            self.free += seq.blocks
        seq.blocks = 0

    def preempt_last(self):
        seq = self.running.pop()
        self.drop(seq)
        seq.computed, seq.decodes = 0, False  # its tokens are prompt again, to the last
        seq.preempted += 1
        self.waiting.appendleft(seq)
        return seq

    def schedule_running(self, budget):
        """(sequence, tokens) of running requests in order, and whether one was preempted."""
        plan, halted, at = [], False, 0
        while at < len(self.running):
            seq = self.running[at]
            tokens = min(seq.known - seq.computed, budget)
            if tokens == 0:
                break
            alive = True
            while not self.take(seq, tokens):
                halted = True
                if self.preempt_last() is seq:
                    alive = False
                    break
            if not alive:
                break
            plan.append((seq, tokens))
            budget -= tokens
            at += 1
        return plan, budget, halted

    def fits_whole(self, seq):
        return self.free is None or -(-seq.known // self.block) <= self.free

    def admit(self, budget, chunked):
        plan = []
        while self.waiting and budget > 0 and len(self.running) < self.max_seqs and self.fits_whole(self.waiting[0]):
            seq = self.waiting[0]
            if not chunked and seq.known > budget and plan:
                break
            tokens = min(seq.known, budget) if chunked else seq.known
            assert self.take(seq, tokens)
            self.running.append(self.waiting.popleft())
            plan.append((seq, tokens))
            budget -= tokens
        return plan

    def plan(self):
        if self.scheduler == "prefill_first":
            plan = self.admit(self.budget, False)
            return plan or self.schedule_running(1 << 40)[0]
        plan, budget, halted = self.schedule_running(self.budget)
        return plan if halted else plan + self.admit(budget, True)

    def step(self):
        plan = self.plan()
        self.now += self.spend(plan)
        self.settle(plan)

    def spend(self, plan):
        """The seconds of a planned step."""
        p, n, k, q, m = 0, 0, 0, 0.0, 0
        for seq, tokens in plan:
            if seq.decodes:
                n, k = n + 1, k + seq.known
            else:
                p, q, m = p + tokens, q + tokens * (seq.computed + tokens / 2), m + 1
        return self.step_s(p, n, k, q, m)

    def settle(self, plan):
        """What a planned step leaves behind at `now`."""
        self.steps += 1
        for seq, tokens in plan:
            seq.computed += tokens
            if seq.computed < seq.known:
                continue
            seq.known += 1
            seq.decodes = True
            if seq.first is None:
                seq.first = self.now
            if seq.known == seq.inputs + seq.outputs:
                seq.last = self.now
                self.running.remove(seq)
                self.drop(seq)


def serve_plain(arrival, inputs, outputs, step_s, *, scheduler, max_seqs, token_budget, kv_tokens=None, block=16):
    """Lists of first and last token times and preemptions, and the number of steps."""
    engine = Plain(step_s, scheduler, max_seqs, token_budget, kv_tokens, block)
    made = [Sequence(i, *row) for i, row in enumerate(zip(arrival, inputs, outputs, strict=True))]
    coming = deque(made)
    while coming or engine.waiting or engine.running:
        if not (engine.waiting or engine.running):
            engine.now = max(engine.now, coming[0].arrival)
        while coming and coming[0].arrival <= engine.now + 1e-9:
            engine.waiting.append(coming.popleft())
        engine.step()
    return [s.first for s in made], [s.last for s in made], [s.preempted for s in made], engine.steps
