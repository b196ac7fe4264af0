"""SynthPix (arXiv 2512.09664): particle-image pairs for PIV, generated fast, exactly labelled."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["analytic"],
    submod_attrs={
        "errors": ["ConfigError", "CorruptFile", "EpisodeEnd", "SourceTimeout"],
        "specs": ["Camera", "FlowSpec", "ImageSpec", "Sheet"],
        "flows": ["Flow", "FlowSource", "FloSource", "H5Source", "IndexSource", "MatSource", "MemorySource",
                  "NpySource", "open_source"],
        "analytic": ["AnalyticSource"],
        "stream": ["Episodic", "Stream"],
        "prefetch": ["Prefetch"],
        "generator": ["Batch", "Generator", "Pair"],
        "sampler": ["Sampler", "SynthpixBatch", "make"],
        "piv": ["evaluate"],
        "settings": ["Settings"],
    },
)  # fmt: skip
