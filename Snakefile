"""Proving Ground: an index. Every folder of workflows/ with a Snakefile is a system; nothing is listed by hand."""

import json
import time
from pathlib import Path

from operators.lab import cluster, datasets, overview, runlock, stage


# Used only with `--sdm apptainer`; the image is built from Dockerfile.
container: "docker://proving-ground"


report: "workflows/report/start.rst"


SYSTEMS = overview.systems(Path(workflow.basedir))
stage.enter_run()
HEAD = Path("results/.ray-head.json")
RUN = {}

stage.or_exit(overview.check_config, config, SYSTEMS)


rule unknown:
    """Any word that is no other target: say what there is."""
    input:
        lambda wildcards: overview.refuse(wildcards.word, SYSTEMS),
    output:
        "{word}",
    log:
        "results/logs/{word}.log",
    wildcard_constraints:
        word="[A-Za-z0-9_-]+",
    shell:
        "exit 2 2> {log}"


rule all:
    """Every system: measures, claims, figures."""
    default_target: True
    input:
        expand("results/{system}/.done", system=SYSTEMS),


for system in SYSTEMS:
    prefix = f"{system}_"

    module:
        name: system
        pathvars:
            results=f"results/{system}",
            logs=f"results/{system}/logs",
            benchmarks=f"results/{system}/benchmarks",
        snakefile:
            f"workflows/{system}/Snakefile"
        config:
            {**config, "head": str(HEAD)}

    use rule * from system as prefix*


for system in SYSTEMS:

    rule:
        name:
            system
        input:
            f"results/{system}/.done",


rule claims:
    """The claims table of every system."""
    input:
        expand("results/{system}/claims.parquet", system=SYSTEMS),
    log:
        "results/logs/claims.log",
    shell:
        "python -m operators.lab.claims {input} 2> {log}"


rule bench:
    """Every system beside its peers."""
    input:
        expand("results/{system}/bench.parquet", system=SYSTEMS),


rule report:
    """One self-contained HTML page: claims, figures with captions, run times, settings."""
    input:
        expand("results/{system}/.done", system=SYSTEMS),
    output:
        "results/report.html",
    log:
        "results/logs/report.log",
    params:
        config=json.dumps(config),
    shell:
        "printf '%s' {params.config:q} > results/.config.json && "
        "snakemake all --nolock --report {output} --configfile results/.config.json > {log} 2>&1"


rule help:
    """What there is: systems, targets, expected minutes."""
    log:
        "results/logs/help.log",
    shell:
        "python -m operators.lab.overview 2> {log}"


rule budget:
    """Expected minutes per system and profile, from past benchmarks."""
    log:
        "results/logs/budget.log",
    shell:
        "python -m operators.lab.overview --budget 2> {log}"


onstart:
    print(datasets.describe(datasets.find_root(config.get("data"))))
    RUN["lock"] = stage.or_exit(runlock.acquire, "results/.lock")
    if config.get("head") != "private" and any(
        "ray" in job.resources.keys() for job in workflow.dag.needrun_jobs()
    ):
        RUN["head"] = cluster.start(HEAD)
        if config.get("profile") != "ci":  # what is timed must not share the cores with a head that starts
            while RUN["head"] and RUN["head"].poll() is None and not HEAD.exists():
                time.sleep(0.1)


onsuccess:
    cluster.stop(RUN.get("head"))


onerror:
    cluster.stop(RUN.get("head"))
