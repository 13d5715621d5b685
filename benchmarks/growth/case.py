"""One case of `benchmarks.growth`, in a separate process, or in several under torchrun.

It prints a line, ROW and a JSON object. Peak memory is the process's (on a GPU what torch has
allocated), read before the peak rate is measured.
"""

import argparse
import gc
import json
import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from ml_collections import ConfigDict

from benchmarks.contenders import half_on, images, trainer_of
from benchmarks.measure import CHANNELS, flops_of_an_image, peak_memory, peaks, timed
from scoreflow.configs import cifar10
from scoreflow.runtime import distributed
from scoreflow.runtime.device import build_device
from scoreflow.runtime.distributed import Shard
from scoreflow.storage.atomic_files import Json

LAYOUTS: dict[int, Json] = {
    32: {"multipliers": (1, 2, 2, 2), "dropout": 0.1},
    64: {"multipliers": (1, 2, 2, 4), "dropout": 0.0},
    128: {"multipliers": (1, 1, 2, 2, 4), "dropout": 0.0},
    256: {"multipliers": (1, 1, 2, 2, 4, 4), "dropout": 0.0},
}
"""32 and 256 are DDPM's (Appendix B); no layout was published for those between, they are ours."""
IMAGES = 64
MARK = "ROW "


@dataclass(frozen=True)
class Case:
    """Settings of one measurement.

    Attributes:
        axis: what grows in this part of the table: "resolution", "batch" or "processes".
        resolution: pixels a side, one of `LAYOUTS`.
        batch: images a step, of all processes together.
        recompute: training.recompute.
        micro_batches: training.micro_batches.
        processes: that share the batch.
        exchange: whether they exchange gradients.
        threads: of a process; 0 for torch's own choice.
        channels: of the network.
    """

    axis: str
    resolution: int
    batch: int
    recompute: bool = False
    micro_batches: int = 1
    processes: int = 1
    exchange: bool = True
    threads: int = 0
    channels: int = CHANNELS


def config_of(case: Case, on_gpu: bool) -> ConfigDict:
    """The config of a case: DDPM's, channels-last, in bfloat16 on a GPU."""
    config = cifar10.get_config()
    config.model.update(LAYOUTS[case.resolution])
    config.training.batch_size = case.batch
    config.training.recompute = case.recompute
    config.training.micro_batches = case.micro_batches
    config.model.channels = case.channels
    # not compiled: each case would take minutes
    config.training.update(precision=precision_of(on_gpu), channels_last=True, compile=False)
    return config


def precision_of(on_gpu: bool) -> str:
    """Precision of the measured steps."""
    return half_on(torch.device("cuda")) if on_gpu else "float32"


def measured(case: Case, device: torch.device, rounds: int, shard: Shard) -> Json:
    """Seconds of steps, memory and operations of this process."""
    on_gpu = device.type == "cuda"
    config, base = config_of(case, on_gpu), 0.0 if on_gpu else resident_gb()
    trainer = trainer_of(config, images(device, case.resolution, IMAGES), shard)
    alone = nullcontext() if case.exchange else trainer.model.network.no_sync()
    count = 5 if on_gpu else 1
    with alone:
        trainer.advance(count)
        seconds = [timed(trainer.advance, count, device) for _ in range(rounds)]
    found = {"seconds": seconds, "peak_gb": peak_memory(device), "base_gb": base}
    network, precision = trainer.network, config.training.precision
    found["parameters"] = sum(parameter.numel() for parameter in network.parameters())
    del trainer, alone
    network = network.eval().to(memory_format=torch.contiguous_format)
    shape = (3, case.resolution, case.resolution)
    found["gflop_an_image_forward"] = flops_of_an_image(network, shape, device) / 1e9
    gc.collect()
    peak = peaks(device, 64 if on_gpu else 8, precision, case.channels)
    return {**found, "convolution_gflops": peak["convolution"]}


def resident_gb() -> float:
    """Resident memory of this process now, GB: Python and torch, before there is a network."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def together(own: Json, shard: Shard) -> Json:
    """Figures of all processes: slowest seconds, largest memory, sum of the peak rates."""
    found = list(shard.gathered({shard.rank: own}).values())
    return {
        **own,
        "seconds": [max(each) for each in zip(*(f["seconds"] for f in found), strict=True)],
        "peak_gb": max(f["peak_gb"] for f in found),
        "convolution_gflops": sum(f["convolution_gflops"] for f in found),
    }


def main(argv: list[str] | None = None) -> None:
    """Measure a case and print it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--case", required=True)
    parser.add_argument("--device", default="")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    case = Case(**json.loads(args.case))
    if case.threads:
        torch.set_num_threads(case.threads)
    shard = distributed.shard()
    try:
        device = build_device(args.device)
        found = together(measured(case, device, args.rounds, shard), shard)
    except torch.OutOfMemoryError:
        if shard.world > 1:
            raise  # the other processes wait for this one until torchrun ends them
        found = {"failed": "does not fit: the GPU is out of memory"}
    if distributed.is_main_process():
        print(MARK + json.dumps({"failed": "", **found}), flush=True)
    distributed.leave()


if __name__ == "__main__":
    main()
