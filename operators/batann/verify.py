"""Full check of an index folder: every sector against its CRC, every other file against its sha256."""

import zlib
from dataclasses import dataclass
from pathlib import Path

from operators.batann.layout import SECTOR, IndexCorrupt, open_index, part_name, sha256_of


@dataclass(frozen=True)
class Damage:
    """One damaged place: the file, its sector (None: the file as a whole), what was stored and what was computed."""

    file: str
    sector: int | None
    stored: str
    computed: str
    nodes: tuple[int, ...] = ()  # whose records lie in the sector

    def __str__(self) -> str:
        where = self.file if self.sector is None else f"{self.file} sector {self.sector} (byte {self.sector * SECTOR})"
        nodes = f"; records of nodes {', '.join(map(str, self.nodes))}" if self.nodes else ""
        return f"{where}: stored {self.stored}, computed {self.computed}{nodes}"


def verify_index(dir: Path | str) -> list[Damage]:
    """Every damaged place of an index folder; an empty list means all is well.

    Raises IndexCorrupt where the folder cannot even be opened (missing, truncated or foreign files).
    """
    index = open_index(dir)
    found = []
    for part in range(index.meta.parts):
        found += _sectors(index, part)
    for name, (_, stored) in index.meta.files.items():
        computed = sha256_of(index.dir / name)
        if computed != stored and not any(damage.file == name for damage in found):
            found.append(Damage(name, None, stored[:16], computed[:16]))
    return found


def _sectors(index, part: int) -> list[Damage]:
    path, sums, ids = index.part_path(part), index.part_crc(part), index.part_ids(part)
    if path.stat().st_size != len(sums) * SECTOR:
        raise IndexCorrupt(path, path.stat().st_size, f"expected {len(sums)} sectors as in {part_name(part)}.crc")
    found, per = [], index.meta.records_per_sector
    with open(path, "rb") as file:
        for sector, stored in enumerate(sums):
            computed = zlib.crc32(file.read(SECTOR))
            if computed == stored:
                continue
            nodes = tuple(int(node) for node in ids[sector * per : (sector + 1) * per])
            found.append(Damage(path.name, sector, f"{stored:08x}", f"{computed:08x}", nodes))
    return found
