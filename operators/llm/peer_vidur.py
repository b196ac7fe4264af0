"""Vidur's event loop with its vLLM scheduler, run as a file by the peers' Python.

    python peer_vidur.py

then JSON lines on standard input, one answer a line:

    {"op": "serve", "arrival_s": [...], "input_tokens": [...], "output_tokens": [...], "batch": 128, "budget": 16384,
     "step": [c0_s, prefill_token_s, decode_s, context_token_s], "model": "meta-llama/Llama-2-7b-hf"}
        -> {"cpu_s": ..., "build_s": ..., "requests_per_s": ..., "version": ..., "ttft_s": [mean, p99]}

Vidur's package brings no kernel profiles, and its predictor would train on made-up ones: here step times come from the
linear model given, put in the predictor's place (cheaper than its own, so the comparison favours Vidur). Only its speed
is compared. A prompt above `budget` tokens would wait for ever there. Every message is served by a child process, since
Vidur counts its replicas over the life of one. What it writes goes to a temporary folder, its printing to standard
error.
"""

import json
import multiprocessing
import sys
import tempfile
import time
from importlib.metadata import version


def linear_predictor(step):
    """A predictor class that answers with the linear step model."""
    from vidur._native.entities import ExecutionTime
    from vidur.execution_time_predictor.base_execution_time_predictor import BaseExecutionTimePredictor

    c0_s, prefill_s, decode_s, context_s = step

    class Linear(BaseExecutionTimePredictor):
        def get_execution_time(self, batch, pipeline_stage):
            tokens, context = batch.num_q_tokens, batch.num_kv_tokens
            seconds = c0_s
            for new, known in zip(tokens, context, strict=True):
                seconds += decode_s + context_s * known if new == 1 else prefill_s * new
            return ExecutionTime(1, *([0.0] * 4), seconds * 1e3, *([0.0] * 9))

        def to_dict(self):
            return {}

    for name in BaseExecutionTimePredictor.__abstractmethods__:
        if name not in vars(Linear):
            setattr(Linear, name, lambda *_: 0.0)
    Linear.__abstractmethods__ = frozenset()
    return Linear


class Rows:
    """A request generator over the rows given."""

    def __init__(self, arrival_s, input_tokens, output_tokens):
        self.rows = list(zip(arrival_s, input_tokens, output_tokens, strict=True))

    def generate(self):
        from vidur.entities import Request

        return [Request(arrived_at=a, num_prefill_tokens=i, num_decode_tokens=o) for a, i, o in self.rows]


def build(rows, step, model, batch, budget, folder):
    """A ready simulator and its requests."""
    from vidur.config import SimulationConfig
    from vidur.execution_time_predictor import ExecutionTimePredictorRegistry
    from vidur.request_generator import RequestGeneratorRegistry
    from vidur.simulator import Simulator

    requests = rows.generate()
    RequestGeneratorRegistry.get = classmethod(lambda *_: type("Given", (), {"generate": lambda _: requests})())
    predictor = linear_predictor(step)
    ExecutionTimePredictorRegistry.get = classmethod(lambda _, __, **options: predictor(**options))
    options = {
        "--replica_config_model_name": model,
        "--replica_config_num_pipeline_stages": 1,
        "--replica_config_tensor_parallel_size": 1,
        "--replica_scheduler_config_type": "vllm",
        "--cache_config_num_blocks": 200_000,
        "--vllm_scheduler_config_batch_size_cap": batch,
        "--vllm_scheduler_config_max_tokens_in_batch": budget,
        "--metrics_config_output_dir": folder,
        "--log_level": "error",
    }
    sys.argv = ["vidur", *(str(word) for pair in options.items() for word in pair)]
    for switch in ("write_metrics", "store_plots", "enable_chrome_trace"):
        sys.argv.append(f"--no-metrics_config_{switch}")
    return Simulator(SimulationConfig.create_from_cli_args()), requests


def serve(arrival_s, input_tokens, output_tokens, step, model="meta-llama/Llama-2-7b-hf", batch=128, budget=16384):
    """Processor seconds of the event loop, of what is built before it, and requests a second."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        simulator, requests = build(Rows(arrival_s, input_tokens, output_tokens), step, model, batch, budget, folder)
        built = time.process_time()
        simulator.run()
        done = time.process_time()
    waits = sorted(request.prefill_completed_at - request.arrived_at for request in requests)
    return {
        "cpu_s": done - built,
        "build_s": built - began,
        "requests_per_s": len(requests) / (done - built),
        "version": version("vidur"),
        "ttft_s": [sum(waits) / len(waits), waits[int(0.99 * len(waits))]],
    }


def in_child(message):
    """The answer of a forked child; RuntimeError with its last words when it fails."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def answer():
        try:
            there.send_bytes(json.dumps(serve(**message)).encode())
        except Exception as error:
            there.send_bytes(json.dumps({"error": f"{type(error).__name__}: {error}"[:500]}).encode())

    child = context.Process(target=answer)
    child.start()
    there.close()
    found = json.loads(here.recv_bytes())
    child.join()
    if "error" in found:
        raise RuntimeError(found["error"])
    return found


def main():
    answers, sys.stdout = sys.stdout, sys.stderr  # Vidur's logger takes what it finds when it is imported
    import vidur.simulator  # noqa: F401  # its imports take seconds: once, before the children

    for line in sys.stdin:
        message = json.loads(line)
        answer = {"serve": in_child}[message.pop("op")](message)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
