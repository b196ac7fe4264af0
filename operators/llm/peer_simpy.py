"""A serving instance as a simpy process under the rules of DistServe's simulator, run as a file by the peers' Python.

    python peer_simpy.py

then JSON lines on standard input, one answer a line:

    {"op": "serve", "arrival_s": [...], "input_tokens": [...], "output_tokens": [...], "prefill": [a, b, c],
     "decode_small": [a, b, c], "decode_large": [a, b, c], "threshold": 95, "max_tokens": 10000000, "extra_s": 0.0}
        -> {"first_token_s": [...], "last_token_s": [...], "cpu_s": ..., "requests_per_s": ...}

Written anew: DistServe's own simulator is a repository, not a package. Its rules: whole prompts first, all that wait up
to a token limit in one step; else one decode step of all that decode; a request object moves from queue to queue and
logs its events, as there. `extra_s` is added to every step (its constant for the scheduler's own time).
"""

import json
import sys
import time
from collections import deque


class Request:
    """One request: its queue entries are logged, as a user of such a simulator reads them."""

    def __init__(self, number, inputs, outputs):
        self.number, self.inputs, self.outputs, self.made = number, inputs, outputs, 0
        self.log = []

    def note(self, now, event):
        self.log.append((now, event))


class Worker:
    """Serves a prefill queue and a decode queue; prefill goes first."""

    def __init__(self, env, rules):
        self.env, self.rules = env, rules
        self.prefill_queue, self.decode_queue = deque(), deque()
        self.wake = env.event()

    def arrive(self, request):
        request.note(self.env.now, "wait_prefill")
        self.prefill_queue.append(request)
        self.wake.succeed()
        self.wake = self.env.event()

    def run(self):
        while True:
            if not (self.prefill_queue or self.decode_queue):
                yield self.wake
            if self.prefill_queue:
                yield from self.prefill()
            else:
                yield from self.decode()

    def prefill(self):
        batch, room = [], self.rules["max_tokens"]
        while self.prefill_queue and (not batch or self.prefill_queue[0].inputs <= room):
            request = self.prefill_queue.popleft()
            request.note(self.env.now, "do_prefill")
            room -= request.inputs
            batch.append(request)
        a, b, c = self.rules["prefill"]
        lengths = [request.inputs for request in batch]
        yield self.env.timeout(a + b * sum(lengths) + c * sum(n * n for n in lengths) + self.rules["extra_s"])
        self.leave(batch)

    def decode(self):
        batch = list(self.decode_queue)
        self.decode_queue.clear()
        for request in batch:
            request.note(self.env.now, "do_decode")
        small = len(batch) < self.rules["threshold"]
        a, b, c = self.rules["decode_small" if small else "decode_large"]
        context = sum(request.inputs + request.made for request in batch)
        yield self.env.timeout(a + b * context + c * len(batch) + self.rules["extra_s"])
        self.leave(batch)

    def leave(self, batch):
        for request in batch:
            request.made += 1
            request.note(self.env.now, "token")
            if request.made < request.outputs:
                self.decode_queue.append(request)


def serve(arrival_s, input_tokens, output_tokens, **rules):
    """Times of first and last tokens, and the processor time the event loop took."""
    import simpy

    env = simpy.Environment()
    requests = [Request(i, *pair) for i, pair in enumerate(zip(input_tokens, output_tokens, strict=True))]
    worker = Worker(env, {"threshold": 95, "max_tokens": 10**7, "extra_s": 0.0, **rules})

    def arrivals():
        for at, request in zip(arrival_s, requests, strict=True):
            yield env.timeout(at - env.now)
            worker.arrive(request)

    env.process(arrivals())
    env.process(worker.run())
    began = time.process_time()
    env.run()
    taken = time.process_time() - began
    tokens = [[at for at, event in request.log if event == "token"] for request in requests]
    return {
        "first_token_s": [times[0] for times in tokens],
        "last_token_s": [times[-1] for times in tokens],
        "cpu_s": taken,
        "requests_per_s": len(requests) / taken,
    }


def main():
    for line in sys.stdin:
        message = json.loads(line)
        answer = {"serve": serve}[message.pop("op")](**message)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
