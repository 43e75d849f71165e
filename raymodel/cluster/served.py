"""What a cluster serves, seen through its dashboard."""

from __future__ import annotations

from typing import Any

from raymodel.cluster.head import ask_dashboard
from raymodel.cluster.holders import APP_PREFIX, app_name_of

_APPS = "/api/serve/applications/"
_ANSWER_S = 30.0  # the dashboard's first word with Ray Serve makes it a client of the cluster


def served_rows(url: str) -> list[dict[str, Any]]:
    """A row for each app that a cluster serves. Raises as `open_client`.

    Args:
        url: the dashboard of the cluster's head.
    """
    found = ask_dashboard(url, _APPS, _ANSWER_S)
    http = found.get("http_options") or {}
    return [
        {
            "app": name,
            "job": name.removeprefix(APP_PREFIX) if name.startswith(APP_PREFIX) else None,
            "state": _state(app),
            "replicas": sum(
                len(deployment.get("replicas") or ())
                for deployment in (app.get("deployments") or {}).values()
            ),
            "at, on the cluster": f"http://{http.get('host')}:{http.get('port')}",
        }
        for name, app in sorted((found.get("applications") or {}).items())
    ]


def _state(app: dict[str, Any]) -> str:
    """As Ray Serve says it, and `asleep` of a model whose last replica has gone until it is asked
    (`serve.replicas.min: 0`)."""
    model = (app.get("deployments") or {}).get("model") or {}
    wanted = model.get("target_num_replicas")
    if app.get("status") == "RUNNING" and wanted == 0 and not model.get("replicas"):
        return "asleep"
    return str(app.get("status", "")).lower()


def is_served(url: str, job_name: str) -> bool:
    """Whether the app of a job is up. Raises as `open_client`."""
    return any(row["app"] == app_name_of(job_name) for row in served_rows(url))
