"""The synthetic twins of every data set the LLM systems read: one import for all of them.

A twin has the columns and types of the real set and its statistics (tested against it where it is present); it never
replaces a set that is there. `dsv3_load` and `routing_traces` are routing data, `table` the kernel and collective
times, `workload` the requests of a serving run by name; `servegen_*` are rates and lengths of a fleet, `alpaca*` and
`nq_open` prompts with the lengths of their answers.
"""

from operators.llm.twins_lengths import alpaca, alpacaeval_lengths, alpacaeval_prompts, nq_open
from operators.llm.twins_routing import dsv3_load, routing_traces, stream
from operators.llm.twins_servegen import servegen, servegen_arrivals, servegen_lengths
from operators.llm.twins_steptime import table
from operators.llm.workloads import synthetic as workload

__all__ = [
    "alpaca",
    "alpacaeval_lengths",
    "alpacaeval_prompts",
    "dsv3_load",
    "nq_open",
    "routing_traces",
    "servegen",
    "servegen_arrivals",
    "servegen_lengths",
    "stream",
    "table",
    "workload",
]
