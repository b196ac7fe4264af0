"""Run me, kill me (kill -9), run me again: two accounts, one section, and the truth about the last call.

python -m operators.locks.example [REGION]
"""

import sys

from operators.locks import Region, section

region = Region.open(sys.argv[1] if len(sys.argv) > 1 else "/dev/shm/two-accounts", slot=0, size=2**20, max_procs=2)
accounts, locks = region.cells(2, init=1_000_000), region.locks(2)


@section
def transfer(tx, amount):
    with tx.lock(locks[0]), tx.lock(locks[1]):
        accounts[0] -= amount
        accounts[1] += amount
        return accounts[0]


if __name__ == "__main__":
    print("last call:", region.last_call(), "total:", accounts[0] + accounts[1])
    while True:
        transfer.call(region, 1)
