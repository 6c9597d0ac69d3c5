"""The files of recipes/accelerate are what the installed Accelerate reads, and mean what their names say."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env

from hf_sft.recipe import Recipe
from hf_sft.training.global_batch import share_batch

FOLDER = Path(__file__).parents[1] / "recipes" / "accelerate"
FILES = {
    "one_gpu": {"distributed_type": "NO", "num_processes": 1, "num_machines": 1},
    "several_gpus": {"distributed_type": "MULTI_GPU", "num_processes": 2, "num_machines": 1},
    "several_nodes": {"distributed_type": "MULTI_GPU", "num_machines": 2, "rdzv_backend": "c10d"},
    "fsdp2": {"distributed_type": "FSDP", "num_machines": 1},
    "deepspeed_zero2": {"distributed_type": "DEEPSPEED", "num_machines": 1},
}


SCALING = (FOLDER.parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")


def read(name: str) -> ClusterConfig:
    """Raises ValueError for keys that Accelerate does not know."""
    return load_config_from_file(str(FOLDER / f"{name}.yaml"))


def test_every_file_is_looked_at() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_accelerate_reads_the_file_as_it_is_meant(name: str) -> None:
    found = read(name).to_dict()
    assert {key: found[key] for key in FILES[name]} == FILES[name]
    assert "mixed_precision" not in (FOLDER / f"{name}.yaml").read_text(), "run.precision decides, not the launcher"


@pytest.mark.parametrize(("name", "prefix"), [("fsdp2", "fsdp_config"), ("deepspeed_zero2", "deepspeed_config")])
def test_every_setting_is_an_option_of_the_launcher(name: str, prefix: str) -> None:
    known = {action.dest for action in launch_command_parser()._actions}
    settings: dict[str, Any] = getattr(read(name), prefix)
    assert set(settings) <= known


def test_fsdp_is_of_version_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the launcher hands it to the processes: by variables of the environment."""
    words = ["--config_file", str(FOLDER / "fsdp2.yaml"), "--use_fsdp", "-m", "hf_sft.run", "r.yaml"]
    given: argparse.Namespace = launch_command_parser().parse_args(words)
    for key, value in {**vars(read("fsdp2")), **read("fsdp2").fsdp_config}.items():
        if hasattr(given, key):
            setattr(given, key, value)
    given.mixed_precision = given.dynamo_backend = "no"
    for key, value in prepare_multi_gpu_env(given).items():
        if key.startswith("FSDP_"):
            monkeypatch.setenv(key, str(value))
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True


def test_scaling_md_names_every_file() -> None:
    assert set(re.findall(r"recipes/accelerate/(\w+)\.yaml", SCALING)) == set(FILES) - {"one_gpu"}


def test_the_batches_of_scaling_md_are_those_of_a_run() -> None:
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", SCALING, re.MULTILINE)
    assert len(rows) == 3
    for processes, most, accumulated, whole in (map(int, row) for row in rows):
        content = {"task": "text-classification", "model": {"name": "x"}, "dataset": {"path": "x"}}
        recipe = Recipe.from_dict(content | {"run": {"global_batch_size": whole}})
        expected = {"per_device_train_batch_size": most, "gradient_accumulation_steps": accumulated}
        assert share_batch(recipe, 32, processes) == expected and most * accumulated * processes == whole


def test_the_job_of_slurm_gives_the_launcher_options_that_it_has() -> None:
    (command,) = re.findall(r"accelerate launch (.*?) -m hf_sft\.run", SCALING[SCALING.index("#SBATCH") :], re.DOTALL)
    words = re.sub(r"\$\(\(.*?\)\)|\$\w+", "2", command.replace("\\\n", " ")).split()
    given = launch_command_parser().parse_args([*words, "-m", "hf_sft.run", "RECIPE"])
    assert (given.num_machines, given.num_processes, given.machine_rank) == (2, 2, 2)
    assert Path(given.config_file).name == "several_nodes.yaml" and given.main_process_ip == "2"
