"""The synthetic twins of every data set the LLM systems read: one import for all of them.

A twin has the columns and types of the real set and its statistics (tested against it where it is present); it never
replaces a set that is there. `dsv3_load` and `routing_traces` are routing data, `table` the kernel and collective
times, `workload` the requests of a serving run.
"""

from operators.llm.twins_routing import dsv3_load, routing_traces, stream
from operators.llm.twins_steptime import table
from operators.llm.workloads import synthetic as workload

__all__ = ["dsv3_load", "routing_traces", "stream", "table", "workload"]
