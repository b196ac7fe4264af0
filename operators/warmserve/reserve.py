"""KV blocks that a draining instance keeps, and what it gives to prewarming (paper, KV cache reservation).

`paper`: its share by requests, but never less than what is in use plus one request's share. `official`: the share
alone, as in the official code. `all`: everything, so nothing is prewarmed while an instance drains.
"""


def kept_blocks(capacity: int, requests: int, used: int, batch: int, rule: str = "paper") -> int:
    """R = max(C*Q/B, T + C/B), rounded up and at most C, for C blocks, Q requests, T blocks in use.

    >>> kept_blocks(320, 8, 50, 32), kept_blocks(320, 0, 0, 32), kept_blocks(320, 32, 320, 32)
    (80, 10, 320)
    """
    if capacity < 0 or requests < 0 or not 0 <= used <= capacity or batch < 1:
        raise ValueError(
            f"capacity (={capacity}), requests (={requests}), used (={used}), batch (={batch}): expected"
            " counts >= 0, used <= capacity, batch >= 1"
        )
    share = -(-capacity * requests // batch)
    if rule == "all":
        return capacity
    if rule == "official":
        return min(share, capacity)
    if rule != "paper":
        raise ValueError(f"rule (={rule!r}): expected 'paper', 'official' or 'all'")
    return min(max(share, used - (-capacity // batch)), capacity)
