"""Where the reading tasks of several nodes run."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from raymodel.data.shard import Dataset
from raymodel.testing.nodes import Nodes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
REPOSITORY = Path(__file__).parents[2]
SCRIPT = """
import json, os, pickle, sys
import pyarrow as pa, ray
from raymodel.data import stream

@ray.remote(num_cpus=1)
class Worker:
    def read(self, dataset, rank):
        read_blocks, node = stream.read_blocks, lambda: ray.get_runtime_context().get_node_id()

        def with_node(*args, **options):
            for block in read_blocks(*args, **options):
                yield block.append_column("node", pa.array([node()] * len(block)))

        stream.read_blocks = with_node  # in the actor's process
        feed = stream.RayFeed(dataset, dataset.order(0, 8), 0, 20, rank, 3)
        return node(), sorted({name for rows in feed for name in rows.table["node"].to_pylist()})

ray.init(address=sys.argv[1], log_to_driver=False)
stream.start_helpers()
with open(sys.argv[2], "rb") as file:
    dataset = pickle.load(file)
workers = [Worker.remote() for _ in range(3)]
read = ray.get([worker.read.remote(dataset, rank) for rank, worker in enumerate(workers)])
named = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
print(json.dumps({"read": read, "named": named}))
"""


def test_each_worker_s_rows_are_read_on_its_node_and_nothing_stays_there(
    dataset: Dataset, tmp_path: Path
) -> None:
    """Usage is not counted on the head, which the other nodes' processes do not know."""
    file = tmp_path / "dataset.pickle"
    file.write_bytes(pickle.dumps(dataset))
    with Nodes() as nodes:
        for _ in range(3):
            nodes.add()
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, nodes.address, str(file)],
            env=nodes.environment | {"PYTHONPATH": str(REPOSITORY), "RAY_USAGE_STATS_ENABLED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert len({own for own, _ in seen["read"]}) == 3
    assert all(read_on == [own] for own, read_on in seen["read"])
    assert "DataUsageCollectionActor" not in seen["named"]
