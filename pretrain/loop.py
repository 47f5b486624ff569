"""The training loop, top to bottom: what every rank runs, from the settings to the last checkpoint.

plan -> loader -> engine step -> telemetry -> evaluation -> checkpoint, until optim.steps
"""

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import closing, nullcontext
from typing import Any

import torch
import torch.distributed as dist
import yaml

from pretrain.attention import describe
from pretrain.checkpoint import keep_newest, only_writer, read_tensors, write_checkpoint
from pretrain.config import Settings, as_tree, settings_from, settings_hash
from pretrain.engine import Engine, compute_dtype
from pretrain.features import Shapes, extract_features
from pretrain.loader import Loader, LoaderSettings
from pretrain.mixture import Mixture, open_evaluated
from pretrain.model import DualEncoder
from pretrain.objective import ContrastiveObjective, Objective, load_parameters
from pretrain.optim import learning_rate
from pretrain.resume import Checkpoint, agree_on_checkpoint
from pretrain.selection import Selection
from pretrain.telemetry import Telemetry, average_over_ranks, plot_curves, read_metrics
from pretrain.weights import build_model
from sharding.files import write_durably
from sharding.plan import Plan
from sharding.reader import SplitReader

log = logging.getLogger(__name__)

MakeObjective = Callable[[DualEncoder, int], Objective]  # of the encoder and the number of identities


def train(tree: dict[str, Any]) -> None:
    """Pre-train by the settings `tree` (as from `as_tree`). All ranks must call, torch.distributed initialised."""
    settings = settings_from(tree, Settings)
    train_objective(settings, lambda encoder, identities: ContrastiveObjective(encoder, settings.loss))


def train_objective(settings: Settings, make_objective: MakeObjective) -> None:
    """Train what `make_objective` makes of the encoder and the number of identities. All ranks must call."""
    rank = dist.get_rank()
    device = set_up_rank(settings, rank)
    with only_writer(settings.run.dir) if rank == 0 else nullcontext():
        if rank == 0:
            record(settings)
        run_steps(settings, make_objective, rank, device)


def run_steps(settings: Settings, make_objective: MakeObjective, rank: int, device: torch.device) -> None:
    """From the data to the last checkpoint. All ranks must call."""
    mixture = Mixture(settings.data, settings.run.seed)
    benchmark = open_evaluated(settings)
    checkpoint = agree_on_checkpoint(settings, mixture.plan)
    engine = start_engine(settings, make_objective, len(mixture.identities), checkpoint, device)
    say_start(settings, mixture, checkpoint, engine)

    first, position = (checkpoint.manifest.step, checkpoint.manifest.position) if checkpoint else (0, 0)
    last = min(settings.optim.steps, settings.run.stop_at or settings.optim.steps)
    selection = Selection(settings, mixture.plan)
    loader = Loader(mixture, loader_settings(settings, rank, device), position)
    with closing(loader), Telemetry(settings, first) as telemetry:
        batches = iter(loader)
        if first == 0:
            evaluate(engine, benchmark, telemetry, selection, 0)
        for step in range(first, last):
            began = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - began
            # The average brings the losses to the CPU: only then has a GPU finished the step that is timed.
            losses = average_over_ranks(engine.train_step(batch, step))
            took = time.perf_counter() - began
            rate = learning_rate(step, settings.optim)
            telemetry.step(step, batch, losses, rate=rate, wait_s=waited, step_s=took)
            done = step + 1
            if done % settings.eval.every == 0 or done == settings.optim.steps:
                evaluate(engine, benchmark, telemetry, selection, done)
            if done % settings.checkpoint.every == 0 or done == last:
                save(engine, settings, mixture.plan, done)
        if last == settings.optim.steps:
            selection.at_end(engine, last)
    if rank == 0:
        plot_curves(read_metrics(telemetry.path), settings.run.dir / "curves.png")
        log.info("done after step %d: %s", max(last, first), settings.run.dir)


def set_up_rank(settings: Settings, rank: int) -> torch.device:
    """Logging (rank 0 speaks, the others only of errors), threads, and the device of this rank."""
    level = logging.INFO if rank == 0 else logging.ERROR
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    for name in ("DeepSpeed", "torch.utils.cpp_extension", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # DeepSpeed and we call it by the name that torch 2.11 knows.
    warnings.filterwarnings("ignore", message=".*all_gather_into_tensor.* is deprecated", category=FutureWarning)
    # Packed text has another length at every step, and the CPU kernels keep code for each shape they have met:
    # 10 MB a step in the demo without these limits, nothing with them, at the same speed (measured).
    os.environ.setdefault("LRU_CACHE_CAPACITY", "64")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    torch.set_num_threads(settings.launch.cpus_per_rank)
    if settings.launch.gpus_per_rank == 0:
        os.environ["DS_ACCELERATOR"] = "cpu"  # otherwise DeepSpeed takes a GPU where it sees one
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


def record(settings: Settings) -> None:
    """Print the resolved settings and keep them beside the checkpoints. One rank calls."""
    text = f"# settings {settings_hash(settings)}\n" + yaml.safe_dump(as_tree(settings), sort_keys=False)
    print(text, file=sys.stderr, end="", flush=True)
    write_durably(settings.run.dir / "settings.yaml", text.encode())
    for stale in (settings.run.dir / "prometheus").glob("rank-*.json"):
        stale.unlink()  # announced by ranks that were killed; this run may have fewer


def start_engine(
    settings: Settings,
    make_objective: MakeObjective,
    identities: int,
    checkpoint: Checkpoint | None,
    device: torch.device,
) -> Engine:
    """The engine with the weights and moments of `checkpoint`, or with initial weights. All ranks must call."""
    if checkpoint is None:
        return Engine(make_objective(build_model(settings.model, settings.run.seed), identities), settings, device)
    folder, manifest = checkpoint.folder, checkpoint.manifest
    objective = make_objective(DualEncoder(settings.model), identities)
    load_parameters(objective, read_tensors(folder, manifest, "weights.safetensors"))
    engine = Engine(objective, settings, device)
    engine.load_moments(read_tensors(folder, manifest, "moments.safetensors"), manifest.step)
    return engine


def say_start(settings: Settings, mixture: Mixture, checkpoint: Checkpoint | None, engine: Engine) -> None:
    """The facts of the run, in a few lines of the log."""
    for stream, share in zip(mixture.plan.streams, mixture.plan.shares, strict=True):
        log.info("data %s: %d samples, %.1f %% of the mixture", stream.name, sum(stream.shard_samples), 100 * share)
    log.info(mixture.describe())
    if mixture.cache is not None and mixture.working_set > mixture.cache.limit_bytes:
        needed, given = mixture.working_set / 1e9, mixture.cache.limit_bytes / 1e9
        log.warning("data.cache.gb %g is less than the %.1f GB read at a time: much is fetched twice", given, needed)
    log.info(describe(engine.device, compute_dtype(settings)))
    log.info(
        "ZeRO stage %d, %d ranks, global batch %d, %.1f M parameters, settings %s",
        settings.engine.zero_stage,
        dist.get_world_size(),
        settings.optim.batch_size,
        engine.parameters / 1e6,
        settings_hash(settings)[:12],
    )
    log.info("starting at step 0" if checkpoint is None else f"continuing from {checkpoint.folder}")


def loader_settings(settings: Settings, rank: int, device: torch.device) -> LoaderSettings:
    """What rank `rank` of this run loads, and to which device."""
    return LoaderSettings(
        data=settings.data,
        image_size=settings.model.vision_cfg.image_size,
        context_length=settings.model.text_cfg.context_length,
        global_batch=settings.optim.batch_size,
        rank=rank,
        world_size=dist.get_world_size(),
        device=device,
    )


def evaluate(
    engine: Engine, benchmark: SplitReader | None, telemetry: Telemetry, selection: Selection, step: int
) -> None:
    """Record retrieval metrics of the weights after `step` steps, into the telemetry. All ranks must call."""
    if benchmark is None:
        return
    shapes = Shapes.of(engine.settings.model, engine.settings.eval.batch_size)
    features, metrics = extract_features(engine.encode, benchmark, shapes), None
    if dist.get_rank() == 0:
        metrics = features.metrics().as_dict()
        telemetry.evaluation(step, metrics)
    selection.after_evaluation(engine, step, metrics)


def save(engine: Engine, settings: Settings, plan: Plan, step: int) -> None:
    """Write the checkpoint of `step` and remove old ones. All ranks must call; none goes on before it is complete."""
    weights, moments = engine.state()
    if dist.get_rank() == 0:
        folder = write_checkpoint(
            settings.run.dir / "checkpoints",
            weights,
            moments,
            step=step,
            position=step * settings.optim.batch_size,
            plan_hash=plan.hash,
            plan=plan.facts,
            settings_hash=settings_hash(settings),
            settings=as_tree(settings),
        )
        keep_newest(settings.run.dir / "checkpoints", settings.checkpoint.keep)
        log.info("checkpoint %s", folder)
    dist.barrier()
