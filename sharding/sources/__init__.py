"""The raw datasets that can be packed: a name → a function that opens the folder (UserError if it is not that layout).

Opening reads the annotation, so that what is wrong with it is said before anything is written.
"""

from collections.abc import Callable
from pathlib import Path

from sharding.record import RawDataset
from sharding.sources import benchmarks, luperson_t, pretrain, syncpr

SOURCES: dict[str, Callable[[Path], RawDataset]] = {
    "pretrain_41k": pretrain.open_41k,
    "pretrain_110k": pretrain.open_110k,
    "luperson_t": luperson_t.open_luperson_t,
    "syncpr": syncpr.open_syncpr,
    "cuhk_pedes": benchmarks.open_cuhk_pedes,
    "icfg_pedes": benchmarks.open_icfg_pedes,
    "rstpreid": benchmarks.open_rstpreid,
    "ufine6926": benchmarks.open_ufine6926,
    "ufine3c": benchmarks.open_ufine3c,
}
