"""The policies that are compared: what each may do, and nothing of how.

`warmserve` and its ablations (paper, ablation); `sllm_gpu`: same serving path and autoscaler, no forecast, weights of
an ended instance stay until their GPUs are needed; `predictive_autoscale`: dedicated instances by forecast peak, one
cold start ahead; `static`: fixed replicas by mean load; `muxserve`: static spatial sharing; `oracle`: warmserve that
knows the coming window; `oracle_hit`: a bound where every start finds its weights loaded. The inside of sllm_gpu and of
predictive_autoscale is not stated in the sources available: our reading. Requests that find no room start an instance
on demand under every policy but static and muxserve.
"""

from dataclasses import dataclass, replace

from operators.warmserve.errors import ConfigError


@dataclass(frozen=True)
class Policy:
    """What a policy does with waiting and draining GPUs."""

    name: str
    prewarm: bool = False
    placement: str = "aware"  # aware | roundrobin
    proactive: bool = False  # prewarm into draining instances
    scale: str = "load"  # load | forecast | fixed | spatial
    keep_weights: bool = True  # of an ended instance
    ready_processes: bool = False
    forecast: str = "csp"  # csp | oracle
    window_s: float | None = None
    always_hit: bool = False


FULL = Policy("warmserve", prewarm=True, proactive=True, ready_processes=True)
POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        FULL,
        replace(FULL, name="no_prewarm", prewarm=False, proactive=False),
        replace(FULL, name="no_placement", placement="roundrobin"),
        replace(FULL, name="no_proactive", proactive=False),
        replace(FULL, name="window_180", window_s=180.0),
        replace(FULL, name="window_2400", window_s=2400.0),
        replace(FULL, name="oracle", forecast="oracle"),
        replace(FULL, name="oracle_hit", forecast="oracle", always_hit=True),
        Policy("sllm_gpu"),
        Policy("predictive_autoscale", scale="forecast", keep_weights=False),
        Policy("static", scale="fixed", keep_weights=False),
        Policy("muxserve", scale="spatial"),
    )
}
ABLATION_RANK = {"no_prewarm": 0, "no_placement": 1, "no_proactive": 2, "warmserve": 3}
SCALE_RANK = {"warmserve": 0, "predictive_autoscale": 1, "sllm_gpu": 2, "muxserve": 3}


def policy(name: str) -> Policy:
    """The policy called `name`; ConfigError listing the known ones."""
    if name not in POLICIES:
        raise ConfigError(f"policy (={name!r}): expected one of {', '.join(POLICIES)}")
    return POLICIES[name]
