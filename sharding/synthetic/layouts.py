"""Which function writes which raw layout; all of them stream pictures to disk as they are drawn."""

from collections.abc import Callable

from sharding.synthetic.benchmarks import (
    write_cuhk_pedes,
    write_cuhk_pedes_original,
    write_icfg_pedes,
    write_rstpreid,
    write_ufine3c,
    write_ufine6926,
)
from sharding.synthetic.corpora import (
    write_luperson_t,
    write_luperson_t_json,
    write_pretrain_41k,
    write_pretrain_110k,
)
from sharding.synthetic.itcpr import write_itcpr
from sharding.synthetic.own_data import write_folder, write_jsonl
from sharding.synthetic.syncpr import write_syncpr
from sharding.synthetic.web_shards import write_webdataset
from sharding.synthetic.write import Write

WRITERS: dict[str, Callable[[Write], int]] = {
    "pretrain_41k": write_pretrain_41k,
    "pretrain_110k": write_pretrain_110k,
    "luperson_t": write_luperson_t,
    "luperson_t_json": write_luperson_t_json,
    "syncpr": write_syncpr,
    "cuhk_pedes": write_cuhk_pedes,
    "cuhk_pedes_original": write_cuhk_pedes_original,
    "icfg_pedes": write_icfg_pedes,
    "rstpreid": write_rstpreid,
    "ufine6926": write_ufine6926,
    "ufine3c": write_ufine3c,
    "itcpr": write_itcpr,
    "jsonl": write_jsonl,
    "folder": write_folder,
    "webdataset": write_webdataset,
}
