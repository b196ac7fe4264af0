"""Facts and tools of LLM serving that several systems need: model shapes, accelerators, step-time tables, workloads.

Knows numbers about models and machines; knows nothing of any routing policy. Imports `lab` only.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "calibrate": ["FitReport", "fit", "half_split", "leave_one_out"],
        "engine": ["serve", "serve_many"],
        "importers": ["Measured", "SchemaError", "ServeGen"],
        "shapes": ["MODELS", "ModelShape"],
        "stepmodels": ["ConstStep", "LinearStep", "RooflineStep", "TableStep", "TwoPhaseStep"],
        "workloads": ["REQUESTS", "TraceError", "validate"],
    },
)
