"""The raw datasets that can be packed: a name → a function that opens the place of its files.

Opening raises UserError if the layout is another one, before anything is written. SOURCES are the datasets of the
field, OWN_DATA the open doors for one's own: their readers are told the dataset's name as well, which begins the
identities of records that name no source.
"""

from collections.abc import Callable

from sharding.record import RawDataset
from sharding.sources import benchmarks, luperson_t, pretrain
from sharding.sources.folder import open_folder
from sharding.sources.itcpr import open_itcpr
from sharding.sources.jsonl import open_jsonl
from sharding.sources.syncpr import open_syncpr
from sharding.sources.webdataset import open_webdataset
from sharding.store import Store

SOURCES: dict[str, Callable[[Store], RawDataset]] = {
    "pretrain_41k": pretrain.open_41k,
    "pretrain_110k": pretrain.open_110k,
    "luperson_t": luperson_t.open_luperson_t,
    "syncpr": open_syncpr,
    "cuhk_pedes": benchmarks.open_cuhk_pedes,
    "icfg_pedes": benchmarks.open_icfg_pedes,
    "rstpreid": benchmarks.open_rstpreid,
    "ufine6926": benchmarks.open_ufine6926,
    "ufine3c": benchmarks.open_ufine3c,
    "itcpr": open_itcpr,
}
OWN_DATA: dict[str, Callable[[Store, str], RawDataset]] = {
    "jsonl": open_jsonl,
    "folder": open_folder,
    "webdataset": open_webdataset,
}
