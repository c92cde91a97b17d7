"""A real Prometheus that scrapes replicas, with the shipped rules, as a process of its own."""

import asyncio
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import yaml
from tests.broker.programs import free_port
from tests.observability.rules import write_rules

_START_S = 30.0


class Prometheus:
    """Scrapes and judges every second. Each target gets the labels that Kubernetes would give."""

    def __init__(self, folder: Path, admin_ports: Sequence[int]) -> None:
        self._folder = folder
        targets = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": "prod", "pod": f"relay-{n}"}}
            for n, port in enumerate(admin_ports)
        ]
        job = {"job_name": "prod/lebureau-relay", "static_configs": targets}
        config = {
            "global": {
                "scrape_interval": "1s",
                "scrape_timeout": "1s",
                "evaluation_interval": "1s",
            },
            "rule_files": [str(write_rules(folder))],
            "scrape_configs": [job],
        }
        self._config = folder / "prometheus.yaml"
        self._config.write_text(yaml.safe_dump(config))
        self._log = folder / "prometheus.log"
        port = free_port()
        self._address = f"127.0.0.1:{port}"

    async def __aenter__(self) -> Self:
        program = shutil.which("prometheus")
        assert program is not None, "prometheus is missing: tests/needs.sh installs it"
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                program,
                f"--config.file={self._config}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                f"--web.listen-address={self._address}",
                stdout=log,
                stderr=log,
            )
        self._session = aiohttp.ClientSession(f"http://{self._address}")
        async with asyncio.timeout(_START_S):
            while not await self._is_ready():
                assert self._process.returncode is None, self._log.read_text()
                await asyncio.sleep(0.1)
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        await self._session.close()
        self._process.kill()
        await self._process.wait()

    async def _is_ready(self) -> bool:
        with suppress(aiohttp.ClientError):
            async with self._session.get("/-/ready") as answer:
                return answer.status == 200
        return False

    async def _get(self, path: str, **parameters: str) -> Any:
        async with self._session.get(f"/api/v1/{path}", params=parameters) as answer:
            document = await answer.json()
        assert document["status"] == "success", (parameters, document)
        return document["data"]

    async def ask(self, query: str) -> list[dict[str, Any]]:
        """What it answers now: series with their labels and value."""
        return list((await self._get("query", query=query))["result"])

    async def label_values(self, label: str, series: str) -> set[str]:
        return set(await self._get(f"label/{label}/values", **{"match[]": series}))

    async def rules(self) -> list[dict[str, Any]]:
        return [rule for group in (await self._get("rules"))["groups"] for rule in group["rules"]]

    async def alerts(self) -> dict[str, list[dict[str, Any]]]:
        """What is pending or firing, by name."""
        found: dict[str, list[dict[str, Any]]] = {}
        for alert in (await self._get("alerts"))["alerts"]:
            found.setdefault(alert["labels"]["alertname"], []).append(alert)
        return found
