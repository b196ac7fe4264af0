"""The simulated device once more, token by token, in plain Python: counts tokens, has no calendar and no lists."""

from math import ceil


class Request:
    def __init__(self, number, arrival, inputs, outputs, need):
        self.number, self.arrival, self.inputs, self.outputs, self.need = number, arrival, inputs, outputs, need
        self.done = self.units = self.copies = self.preemptions = self.seq = 0
        self.start = self.token = self.finish = None

    @property
    def used(self):
        return self.inputs + self.done


def next_tokens(bounds, now, done, align):
    return next((b for b in bounds if b > done and b > now), done + align)


def serve(requests, *, bounds, capacity, step_s, align=16, page=0, watermark=0):
    """Serve to the end; `step_s(used of the running, prefilled, copied)` gives the seconds of a step."""
    future, waiting, running = sorted(requests, key=lambda r: r.arrival), [], []
    size, free, now, seq = page or align, capacity, 0.0, 0
    while future or waiting or running:
        for r in [r for r in running if r.done == r.outputs]:
            r.finish = now
            running.remove(r)
            free += r.units
        preempted = copied = prefilled = 0
        for r in sorted(running, key=lambda r: r.seq):
            if r not in running or r.used < r.units * size:
                continue
            want = r.units + 1
            if not page:
                answer = r.units * align - r.inputs
                want = max(ceil((r.inputs + next_tokens(bounds, answer, r.done, align)) / align), r.units + 1)
            while (1 if page else want) > free:
                victim = running.pop()
                free += victim.units
                victim.units, victim.preemptions, preempted = 0, victim.preemptions + 1, preempted + 1
                waiting.insert(0, victim)
                if victim is r:
                    break
            if r.units:
                free -= want - r.units
                r.units = want
                if not page:
                    r.copies, copied = r.copies + 1, copied + r.used
        while future and future[0].arrival <= now:
            waiting.append(future.pop(0))
        while waiting and not preempted:
            r = waiting[0]
            if page:
                units = (r.used + page) // page
                fits = units <= free - watermark or not running
            else:
                tokens = next((b for b in bounds if b >= r.need), bounds[-1])
                tokens = tokens if tokens > r.done else next_tokens(bounds, tokens, r.done, align)
                units = ceil((r.inputs + tokens) / align)
                fits = units <= free
            if not fits or units > free:
                break
            waiting.pop(0)
            r.units, r.seq, seq, free = units, seq, seq + 1, free - units
            r.start = now if r.start is None else r.start
            prefilled += r.used
            running.append(r)
        if running:
            now += step_s([r.used for r in running], prefilled, copied)
            for r in running:
                r.done += 1
                r.token = now if r.token is None else r.token
        elif not waiting and future:
            now = max(now, future[0].arrival)
    return requests
