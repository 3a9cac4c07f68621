"""Fine-tuning on several processes: the same as on one, sharded or not, and it goes on exactly."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from accelerate.commands.config.config_args import load_config_from_file

from trainer.rewards.tuning.run import tune
from trainer.rewards.tuning.settings import Lora, Tuning

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("processes.py")
FSDP = Path(__file__).parents[4] / "trainer" / "rewards" / "tuning" / "fsdp.yaml"


def launch(kind: str, settings: Tuning, folder: Path, stop: int = 0) -> None:
    config = folder / "settings.json"
    config.write_bytes(msgspec.json.encode(settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port))
    done = subprocess.run(
        [sys.executable, *torchrun, str(SCRIPT), kind, str(stop), str(config)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode == 0) == (stop == 0), done.stderr[-3000:]


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_learn_as_one_does_with_their_rows(
    kind: str, settings: Callable[..., Tuning], tmp_path: Path
) -> None:
    run = settings(lora=Lora(rank=8, alpha=32, dropout=0.0), steps=4, every=4)
    alone = tune(run)
    other = msgspec.structs.replace(run, batch=1, output=str(tmp_path / "two"))
    launch(kind, other, tmp_path)
    assert losses(tmp_path / "two") == pytest.approx(losses(Path(run.output)), rel=1e-3)
    told = json.loads((tmp_path / "two" / "run.json").read_text())
    assert told["processes"] == 2
    assert told["figures"]["roboreward_mae"] == pytest.approx(alone["roboreward_mae"], abs=1e-3)


def test_a_sharded_run_goes_on_bit_for_bit(settings: Callable[..., Tuning], tmp_path: Path) -> None:
    run = settings(
        method="full", learning_rate=0.003, precision="bfloat16", steps=4, every=2, batch=1
    )
    runs = [msgspec.structs.replace(run, output=str(tmp_path / name)) for name in "ab"]
    launch("fsdp", runs[0], tmp_path, stop=4)
    launch("fsdp", runs[1], tmp_path, stop=2)
    launch("fsdp", runs[1], tmp_path, stop=4)
    one, other = ((tmp_path / name / "state.safetensors").read_bytes() for name in "ab")
    assert one == other


def test_accelerate_reads_the_fsdp_settings() -> None:
    read = load_config_from_file(str(FSDP))
    assert read.distributed_type == "FSDP" and read.fsdp_config["fsdp_version"] == 2
