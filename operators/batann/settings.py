"""Settings of BatANN: one frozen model, every field with its unit and where its default comes from.

Sizes per profile live in `workflows/batann/profiles.yaml`; what stands here are the defaults of the laptop.
"Paper" is arXiv 2512.09331 version 1; "official" the configuration of its published code.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from operators.lab import settings as lab
from operators.lab.settings import field

Metric = Literal["l2", "ip", "cosine"]
Method = Literal["gp", "kmeans", "random", "kaminpar", "metis"]
Mode = Literal["single", "baton", "scatter", "scatter_topn", "rpc", "baton_client_gather"]
Refill = Literal["one", "all", "single"]
Transport = Literal["tcp", "ray"]
Io = Literal["uring", "pread", "mem"]

MOST_SERVERS = 256  # the map node -> partition is one byte
MOST_W = 64
MOST_L = 2048


def _counts(name: str, values: tuple[int, ...], most: int) -> None:
    if not values:
        raise ValueError(f"{name} (=[]): empty; give at least one")
    for value in values:
        if not 1 <= value <= most:
            raise ValueError(f"{name} (={value}): expected values from 1 to {most}")


class Extrapolation(BaseModel):
    """How hops and shares are carried from measured sizes to 100M and 1B; fixed before any comparison."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tiers: tuple[int, ...] = field(
        (10_000, 30_000, 100_000), unit="vectors", source="spec 5: as many decades as the machine builds in time"
    )
    partition_seeds: int = field(3, unit="seeds a partition is repeated with", source="our choice", ge=1)
    rule: Literal["power"] = field(
        "power",
        unit="name: straight line of log(value) over log(n) through all tiers and seeds, one a quantity and S",
        source="our choice, before the first comparison: hops and shares move by a constant factor a decade",
    )
    interval: float = field(
        0.95, unit="coverage of the prediction interval (Student t of that line)", source="our choice", gt=0, lt=1
    )
    targets: tuple[int, ...] = field((100_000_000, 1_000_000_000), unit="vectors", source="paper, data sets")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _counts("extrapolation.tiers", self.tiers, 10**10)
        _counts("extrapolation.targets", self.targets, 10**10)
        if list(self.tiers) != sorted(set(self.tiers)):
            raise ValueError(f"extrapolation.tiers (={list(self.tiers)}): expected ascending sizes, each once")
        return self


class Fault(BaseModel):
    """One injected fault: `kind` happens to `server` at the start of query `at_query` or `at_s` seconds after start."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["kill", "stop", "slow", "drop_connection", "restart", "stale_epoch"] = field(
        unit="name", source="spec 7"
    )
    server: int = field(unit="server", source="spec 7", ge=0, lt=MOST_SERVERS)
    at_query: int | None = field(None, unit="query", source="spec 7", ge=0)
    at_s: float | None = field(None, unit="s", source="spec 7", ge=0)

    @model_validator(mode="after")
    def _one_time(self) -> Self:
        if (self.at_query is None) == (self.at_s is None):
            raise ValueError(f"fault {self.kind} of server {self.server}: expected exactly one of at_query and at_s")
        return self


class Settings(lab.Settings):
    """Everything a BatANN run depends on."""

    system: Literal["batann"] = field("batann", unit="name", source="this folder")
    seeds: int = field(
        1, unit="index seeds, from `seed` upwards", source="our choice: an index is the costly part", ge=1
    )

    # data
    n: int = field(100_000, unit="base vectors", source="spec 4: the tier a laptop builds in a minute", ge=1)
    queries: int = field(300, unit="queries a configuration", source="spec 8", ge=1)
    truth_k: int = field(10, unit="neighbours of exact truth", source="paper: recall@10", ge=1)
    metric: Metric = field("l2", unit="name", source="paper")

    # graph, codes, head
    R: int = field(64, unit="edges a node at most", source="paper", ge=1, le=256)
    L_build: int = field(128, unit="beam entries while building", source="paper", ge=1, le=MOST_L)
    alpha: float = field(1.2, unit="factor on squared distances", source="paper", ge=1)
    pq_chunks: int = field(32, unit="bytes a vector", source="paper", ge=1, le=64)
    pq_sample: int = field(65_536, unit="vectors the codebook is trained on", source="our choice", ge=256)
    pq_iters: int = field(12, unit="k-means iterations", source="our choice", ge=1)
    head_fraction: float = field(0.01, unit="share of the vectors in the head index", source="paper: 1 %", ge=0, le=1)
    head_R: int = field(32, unit="edges a node at most", source="paper", ge=1, le=256)
    head_L: int = field(64, unit="beam entries while building", source="paper", ge=1, le=MOST_L)

    # partition
    partition: Method = field("gp", unit="name", source="paper: GP default")
    methods: tuple[Method, ...] = field(("gp",), unit="names; all are partitioned and laid out", source="our choice")
    eps: float = field(0.05, unit="largest block over n / S, less 1", source="paper: KaMinPar's epsilon", ge=0)
    knn_k: int = field(10, unit="neighbours in the graph that is partitioned", source="gp-ann", ge=1)
    knn_repetitions: int = field(3, unit="sketches", source="gp-ann", ge=1)
    knn_fanout: int = field(3, unit="nearest leaders at the top level", source="gp-ann", ge=1)

    # search
    k: int = field(10, unit="answers a query", source="paper", ge=1)
    mem_l: int = field(10, unit="beam entries of the head search; 0: start at the medoid", source="official", ge=0)
    mem_k: int = field(10, unit="hits of the head search", source="official", ge=0)
    W: int = field(4, unit="reads at once", source="paper: 8; at our sizes 4 (spec 5)", ge=1, le=MOST_W)
    W_list: tuple[int, ...] = field((1, 4, 8), unit="reads at once", source="paper, ablation")
    L_list: tuple[int, ...] = field(
        (10, 15, 20, 30, 40, 60, 80, 120, 200), unit="beam entries", source="official log, and finer below"
    )
    work_L: tuple[int, ...] = field(
        (13, 15, 20, 30, 40, 120, 200), unit="beam entries", source="spec 5: around recall .95, 40, and the paper's 200"
    )
    recall_target: float = field(0.95, unit="recall@k everything is compared at", source="paper", gt=0, le=1)

    # the stage without sockets
    work_queries: int = field(300, unit="queries a row of the tiers' table", source="spec 8", ge=1)
    tier_servers: tuple[int, ...] = field((5, 10), unit="servers", source="paper: 5 and 10")

    # serving
    servers: tuple[int, ...] = field((1, 5, 10), unit="servers", source="paper: 5 and 10")
    modes: tuple[Mode, ...] = field(("baton", "scatter"), unit="names", source="paper: BatANN and scatter-gather")
    transport: Transport = field("tcp", unit="name", source="paper")
    io: Io = field("uring", unit="name; pread where io_uring is refused", source="paper")
    threads: int = field(1, unit="search threads a server", source="our choice; paper: 8", ge=1)
    live: int = field(8, unit="live queries a thread", source="paper", ge=1)
    refill: Refill = field("one", unit="name: one | all | single", source="paper: inter-query balancing")
    batch: int = field(8, unit="states a message at most", source="official", ge=1, le=255)
    iops_cap: float = field(
        500.0, unit="reads/s a server; 0: not metered", source="spec 5: S x cap far below the disk", ge=0
    )
    read_latency_us: float = field(0.0, unit="us a batch of W reads", source="spec 5", ge=0)
    link_delay_us: float = field(0.0, unit="us a message", source="spec 5", ge=0)
    replicas: int = field(1, unit="servers a partition lives on", source="our choice", ge=1)
    max_hops: int = field(4096, unit="hops a query", source="our choice", ge=1)
    max_handoffs: int = field(256, unit="hand-offs a query", source="our choice", ge=1)
    timeout_s: float = field(2.0, unit="s until the client tries again", source="our choice", gt=0)
    refill_L: tuple[int, ...] = field((20, 40, 80), unit="beam entries", source="paper: at every L")
    rates: tuple[float, ...] = field(
        (0.2, 0.5, 0.8), unit="of the slower mode's QPS; open loop", source="paper, latency against rate"
    )
    repeats: int = field(3, unit="runs of every configuration, interleaved", source="our choice", ge=1)
    run_s: float = field(1.5, unit="s a run lasts, by the expected QPS", source="our choice", gt=0)
    faults: tuple[Fault, ...] = field((), unit="injected faults", source="our choice")

    # the cluster of the prediction
    device_iops: float = field(500_000.0, unit="reads/s a server", source="a data-centre NVMe drive; our choice", gt=0)
    device_read_us: float = field(
        100.0, unit="us a batch of reads", source="a data-centre NVMe drive; our choice", ge=0
    )
    device_threads: int = field(8, unit="search threads a server", source="paper", ge=1)
    device_link_us: float = field(50.0, unit="us one way", source="25 Gb Ethernet in a rack; our choice", ge=0)

    extrapolation: Extrapolation = field(Extrapolation(), unit="rule", source="spec 5")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _counts("L_list", self.L_list, MOST_L)
        _counts("W_list", self.W_list, MOST_W)
        _counts("work_L", self.work_L, MOST_L)
        _counts("servers", self.servers, MOST_SERVERS)
        _counts("tier_servers", self.tier_servers, MOST_SERVERS)
        if min(self.work_L) < self.k:
            raise ValueError(f"work_L (={list(self.work_L)}): expected beams of at least k (={self.k})")
        for name in ("modes", "methods"):
            if not getattr(self, name):
                raise ValueError(f"{name} (=[]): empty; give at least one")
        if self.partition not in self.methods:
            raise ValueError(f"methods (={list(self.methods)}): expected partition (={self.partition!r}) among them")
        if max(self.L_list) < self.k:
            raise ValueError(f"L_list (={list(self.L_list)}): none reaches k (={self.k})")
        if self.truth_k < self.k:
            raise ValueError(f"truth_k (={self.truth_k}): must be >= k (={self.k})")
        for fault in self.faults:
            if fault.server >= max(self.servers):
                raise ValueError(f"faults (server {fault.server}): expected a server below {max(self.servers)}")
        return self
