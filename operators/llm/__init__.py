"""Facts and tools of LLM serving that several systems need: model shapes, accelerators, step-time tables, workloads.

Knows numbers about models and machines; knows nothing of any routing policy. Imports `lab` only.
"""
