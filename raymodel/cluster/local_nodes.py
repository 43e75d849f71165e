"""Nodes as processes of this machine, for Ray's autoscaler: `cluster/local-autoscaling.yaml`."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    NODE_KIND_WORKER,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

_END_S = 20.0


@dataclass
class _Node:
    tags: dict[str, str]
    process: subprocess.Popen[bytes]
    folder: Path


class LocalNodes(NodeProvider):
    """Starts and ends them. Each has a temporary folder of its own, as if on its own machine.

    Ray's provider for its own tests gives all nodes that of the head. There each one that joins
    unpacks the files of a running job anew, under the feet of the processes that work in them.
    """

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        """Reads these keys of `provider`.

        head_node_id: what the head was started with as `RAY_CLOUD_INSTANCE_ID`.
        gcs_address: `host:port` of the head.
        folder: where the nodes' folders are made; the system's temporary folder unless given. A
            short path: those of sockets below it end at 107 characters.
        """
        super().__init__(provider_config, cluster_name)
        self._lock = threading.Lock()  # Ray launches nodes in threads
        self._numbers = itertools.count(1)
        self._address = provider_config["gcs_address"]
        self._parent = provider_config.get("folder")
        self._head_id = provider_config["head_node_id"]
        self._head_tags = {
            TAG_RAY_NODE_KIND: NODE_KIND_HEAD,
            TAG_RAY_USER_NODE_TYPE: "ray.head.default",
            TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
        }
        self._nodes: dict[str, _Node] = {}

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        with self._lock:
            for name, node in list(self._nodes.items()):
                if node.process.poll() is not None:  # `ray start --block` ends with its raylet
                    self._forget(name)
            wanted = tag_filters.items()
            known = {self._head_id: self._head_tags}
            known |= {name: node.tags for name, node in self._nodes.items()}
            return [name for name, tags in known.items() if wanted <= tags.items()]

    def is_running(self, node_id: str) -> bool:
        return node_id in self.non_terminated_nodes({})

    def is_terminated(self, node_id: str) -> bool:
        return not self.is_running(node_id)

    def node_tags(self, node_id: str) -> dict[str, str]:
        with self._lock:
            return dict(self._tags(node_id))

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        with self._lock:
            self._tags(node_id).update(tags)

    def external_ip(self, node_id: str) -> str:
        return node_id

    def internal_ip(self, node_id: str) -> str:
        return node_id

    def create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> None:
        for _ in range(count):
            self._create(tags, dict(resources), labels)

    def terminate_node(self, node_id: str) -> None:
        with self._lock:
            process = self._nodes[node_id].process
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with self._lock:
            self._forget(node_id)

    def _create(
        self, tags: dict[str, str], resources: dict[str, float], labels: dict[str, str]
    ) -> None:
        with self._lock:
            name = f"local-{next(self._numbers)}"
            folder = Path(tempfile.mkdtemp(prefix="ray-", dir=self._parent))
            command = [
                *(str(Path(sys.executable).parent / "ray"), "start", "--block"),
                f"--address={self._address}",
                *(f"--temp-dir={folder}", "--dashboard-agent-listen-port=0"),
                f"--num-cpus={int(resources.pop('CPU', 0))}",
                f"--num-gpus={int(resources.pop('GPU', 0))}",
            ]
            if "object_store_memory" in resources:
                command.append(f"--object-store-memory={int(resources.pop('object_store_memory'))}")
            command.append(f"--resources={json.dumps(resources)}")
            command += [f"--labels={json.dumps(labels)}"] if labels else []
            own = {TAG_RAY_NODE_KIND: NODE_KIND_WORKER, TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE}
            with open(folder / "ray-start.log", "wb") as log:
                process = subprocess.Popen(
                    command,
                    env=_environment(name, tags[TAG_RAY_USER_NODE_TYPE]),
                    stdout=log,
                    stderr=log,
                )
            self._nodes[name] = _Node(tags | own, process, folder)

    def _tags(self, name: str) -> dict[str, str]:
        return self._head_tags if name == self._head_id else self._nodes[name].tags

    def _forget(self, name: str) -> None:
        node = self._nodes.pop(name, None)
        if node is not None:  # of two that see its end, one comes second
            shutil.rmtree(node.folder, ignore_errors=True)


def _environment(name: str, node_type: str) -> dict[str, str]:
    """By these two the autoscaler recognises a node that has joined."""
    return os.environ | {"RAY_CLOUD_INSTANCE_ID": name, "RAY_NODE_TYPE_NAME": node_type}
