"""A server on this machine that speaks as much of wandb's API as its client needs: what it was sent is kept here.

The client asks by GraphQL (`/graphql`), sends history and system metrics as lines (`…/file_stream`), and puts files at
the addresses it was given (`/upload/…`).
"""

from __future__ import annotations

import gzip
import http.server
import json
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

ENTITY = "someone"


@dataclass
class Artifact:
    """`name:digest` is one version: what is sent again under both is the same, as on wandb's server."""

    id: str
    name: str
    type: str
    digest: str
    metadata: dict[str, Any]
    aliases: list[str]
    committed: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    made_by: str = ""
    used_by: list[str] = field(default_factory=list)


class WandbServer:
    """Keeps what arrives.

    Attributes:
        runs: by id, what was last said of each: project, groupName, jobType, displayName, config and so on.
        files: by run, every file that was sent with it.
        artifacts: in the order in which they were announced.
        unknown: the requests that nothing here answers.
    """

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.files: dict[str, dict[str, bytes]] = defaultdict(dict)
        self.artifacts: list[Artifact] = []
        self.unknown: list[str] = []
        self.ended: dict[str, int] = {}
        self._streams: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
        self._lock = threading.Lock()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self._answer(server.post(self.path, self._body()))

            def do_PUT(self) -> None:
                self._answer(server.put(unquote(self.path), self._body()))

            def do_GET(self) -> None:
                self._answer({})

            def log_message(self, *arguments: Any) -> None:
                pass

            def _body(self) -> bytes:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

            def _answer(self, answer: dict[str, Any]) -> None:
                data = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *arguments: Any) -> None:
                """The client drops connections when it ends."""

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    # ---- what came

    def rows(self, run: str) -> list[dict[str, Any]]:
        """A run's history, without wandb's own columns."""
        return [
            {key: value for key, value in row.items() if not key.startswith("_")}
            for row in self.stream(run, "wandb-history.jsonl")
        ]

    def stream(self, run: str, name: str) -> list[dict[str, Any]]:
        lines = self._streams[run, name]
        return [json.loads(lines[number]) for number in sorted(lines)]

    def config(self, run: str) -> dict[str, Any]:
        """A run's config, as its page would show it."""
        config = json.loads(self.runs[run]["config"])
        return {key: entry["value"] for key, entry in config.items() if key != "_wandb"}

    def artifact(self, name: str) -> Artifact:
        """The one committed artifact of that name."""
        (found,) = [one for one in self.artifacts if one.name == name and one.committed]
        return found

    # ---- the API

    def post(self, path: str, body: bytes) -> dict[str, Any]:
        if path == "/graphql":
            asked = json.loads(body)
            with self._lock:
                return {"data": self._graphql(asked.get("operationName"), asked["query"], asked.get("variables") or {})}
        if path.endswith("/file_stream"):
            self._receive(path.split("/")[-2], json.loads(body))
        else:
            self.unknown.append(path)
        return {}

    def put(self, path: str, body: bytes) -> dict[str, Any]:
        _, _, kind, owner, name = path.split("/", 4)
        if kind == "run":
            self.files[owner][name] = body
        else:
            self._of(owner).files[name] = body
        return {}

    def _receive(self, run: str, sent: dict[str, Any]) -> None:
        for name, part in (sent.get("files") or {}).items():
            lines = self._streams[run, name]
            lines.update(enumerate(part["content"], start=part["offset"]))
        if sent.get("complete"):
            self.ended[run] = sent["exitcode"]

    def _graphql(self, operation: str | None, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        given = variables.get("input") or variables
        match operation:
            case "Viewer":
                return {
                    "viewer": {"id": "1", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": {"edges": []}}
                }
            case "ServerFeaturesQuery":
                return {"serverInfo": {"features": []}}
            case "OrganizationCoreWeaveOrganizationID":
                return {"entity": None}
            case "RunResumeStatus":
                return {"model": {"bucket": self._status(given["name"])}}
            case "UpsertBucket":
                return {"upsertBucket": self._upsert(given)}
            case "CreateRunFiles":
                return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": self._addresses(given)}}
            case "CreateArtifact":
                return {"createArtifact": {"artifact": self._create(given)}}
            case "CreateArtifactManifest":
                return {"createArtifactManifest": {"artifactManifest": self._manifest(given["artifactID"])}}
            case "CreateArtifactFiles":
                edges = [{"node": self._place(one)} for one in given["artifactFiles"]]
                return {"createArtifactFiles": {"files": {"edges": edges}}}
            case "CommitArtifact":
                artifact = self._of(given["artifactID"])
                artifact.committed = True
                return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}
            case "UseArtifact":
                self._of(given["artifactID"]).used_by.append(given["runName"])
                return {"useArtifact": {"artifact": {"id": given["artifactID"]}}}
        if query.lstrip().startswith("query ArtifactType"):
            return {"project": {"artifact": None}}
        self.unknown.append(operation or query)
        return {}

    def _status(self, run: str) -> dict[str, Any] | None:
        """What a client asks before it goes on with a run: how much of it is here."""
        if run not in self.runs:
            return None
        history, events = self._streams[run, "wandb-history.jsonl"], self._streams[run, "wandb-events.jsonl"]
        summary = self._streams[run, "wandb-summary.json"]
        return {
            "id": run,
            "name": run,
            "summaryMetrics": summary[max(summary)] if summary else "{}",
            "displayName": self.runs[run].get("displayName"),
            "logLineCount": 0,
            "historyLineCount": len(history),
            "eventsLineCount": len(events),
            "historyTail": json.dumps([history[max(history)]] if history else []),
            "eventsTail": json.dumps([events[max(events)]] if events else []),
            "config": self.runs[run]["config"],
            "tags": [],
            "wandbConfig": json.dumps({"t": {}}),  # it has begun; without, it is one that a sweep announced
        }

    def _upsert(self, given: dict[str, Any]) -> dict[str, Any]:
        run, inserted = given["name"], given["name"] not in self.runs
        known = self.runs.setdefault(run, {})
        known |= {key: value for key, value in given.items() if value is not None}
        project = {"id": "1", "name": known["project"], "entity": {"id": "1", "name": ENTITY}}
        bucket = {"id": run, "name": run, "displayName": known.get("displayName"), "description": "", "sweepName": None}
        lines = len(self._streams[run, "wandb-history.jsonl"])
        return {
            "bucket": {**bucket, "config": known["config"], "historyLineCount": lines, "project": project},
            "inserted": inserted,
        }

    def _addresses(self, given: dict[str, Any]) -> list[dict[str, str]]:
        place = f"{self.address}/upload/run/{given['run']}"
        return [{"name": name, "uploadUrl": f"{place}/{name}"} for name in given["files"]]

    def _create(self, given: dict[str, Any]) -> dict[str, Any]:
        name, digest = given["artifactCollectionName"], given["digest"]
        known = [one for one in self.artifacts if (one.name, one.digest) == (name, digest)]
        if not known:
            aliases = [alias["alias"] for alias in given["aliases"] or []]
            metadata = json.loads(given["metadata"] or "{}")
            number = str(len(self.artifacts))
            self.artifacts.append(Artifact(number, name, given["artifactTypeName"], digest, metadata, aliases))
            self.artifacts[-1].made_by = given["runName"]
            known = self.artifacts[-1:]
        state = "COMMITTED" if known[0].committed else "PENDING"
        return {"id": known[0].id, "state": state, "artifactSequence": {"id": name, "latestArtifact": None}}

    def _manifest(self, artifact: str) -> dict[str, Any]:
        address = f"{self.address}/upload/artifact/{artifact}/wandb_manifest.json"
        return {"id": artifact, "file": {"id": artifact, "uploadUrl": address, "uploadHeaders": []}}

    def _place(self, file: dict[str, Any]) -> dict[str, Any]:
        address = f"{self.address}/upload/artifact/{file['artifactID']}/{file['name']}"
        return {
            "storagePath": file["name"],
            "uploadUrl": address,
            "uploadHeaders": [],
            "uploadMultipartUrls": None,
            "artifact": {"id": file["artifactID"]},
        }

    def _of(self, artifact: str) -> Artifact:
        return self.artifacts[int(artifact)]
