"""Hands jobs to a cluster by Ray's own command, `ray job`, which also follows and stops them."""

import json
import os
import re
import secrets
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
import requests

from freqbench.core import __version__
from freqbench.core.errors import UserError
from freqbench.core.names import home_of
from freqbench.engine import provenance
from freqbench.remote.working_directory import WorkingDirectory, refuse_credentials

ANSWER_S = 15.0  # limit for an answer of the head
STOP_S = 120  # a run finishes and stores work in flight
RAYS = re.compile(r"\S+ \S+\t[A-Z]+ \w+\.py:\d+ -- |Running entrypoint for job ")
"""The beginning of a line that is Ray's own, not the job's."""
SERVER = "RAY_API_SERVER_ADDRESS"  # Ray's command takes the address from it, whatever it is given
Texts = Mapping[str, str]


@dataclass(frozen=True)
class Dashboard:
    """Dashboard of a cluster's head, `http://HEAD:8265`; the token is Ray's own."""

    url: str

    @classmethod
    def reach(cls, address: str | None) -> "Dashboard":
        """Returns the head at an address; raises UserError if that is no dashboard's."""
        if not address:
            raise UserError(f"expected --address http://HEAD:8265, or {SERVER}, got neither: give the head's dashboard")
        url = (address if "://" in address else f"http://{address}").rstrip("/")
        if not re.fullmatch(r"https?://[^/\s]\S*", url):
            raise UserError(f"--address {address}: expected http://HEAD:8265, the dashboard of the head")
        return cls(url)

    @cached_property
    def num_nodes(self) -> int:
        """The machines that are alive; see `_answer`."""
        nodes = self._answer("v0/nodes", lambda found: found["data"]["result"]["result"])
        return sum(node["state"] == "ALIVE" for node in nodes)

    def job_lines(self) -> dict[str, str]:
        """Returns a line for each job that was submitted, by its id, the latest last: its state, and its store."""
        sent = self._answer("jobs/", lambda found: [each for each in found if each["submission_id"]])
        lines: dict[str, str] = {}
        for each in sorted(sent, key=lambda each: each["start_time"] or 0):
            name = each["submission_id"]
            out = (each["metadata"] or {}).get("out", "not a job of freqbench")
            lines[name] = f"{name}: {each['status'].lower()}, {out}"
        return lines

    def _answer(self, path: str, read: Callable[[Any], list[Any]]) -> list[Any]:
        """Returns what the head says; raises UserError where none answers in ANSWER_S, or it refuses the token."""
        token = _token()
        got = "no answer"
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            answer = requests.get(f"{self.url}/api/{path}", headers=headers, timeout=ANSWER_S)
            got = f"another one (status {answer.status_code})"
            if answer.status_code not in (401, 403):
                return read(answer.json())
        except (OSError, ValueError, KeyError, TypeError):
            advice = "check --address (its port is 8265 unless told otherwise) and that the cluster is up"
            raise UserError(f"{self.url}: expected an answer of a Ray head's dashboard, got {got}: {advice}") from None
        advice = "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's"
        raise UserError(f"{self.url}: expected a token that this head takes ({answer.text.strip()}): {advice}")

    def shared_place(self, out: str, what: str) -> str:
        """Returns the place for results at `out`, a path or URI, that all nodes share; `what` begins the line of an
        error."""
        refuse_credentials(out, what)
        protocol, is_uri, _ = out.partition("://")
        if is_uri:
            if protocol not in fsspec.available_protocols():
                raise UserError(f"{what} {out}: expected a URI that fsspec knows (s3://, gs://, abfs://, file:///)")
            return out
        if self.num_nodes > 1:
            raise UserError(
                f"{what} {out}: expected a place that the {self.num_nodes} nodes of the cluster share, got a plain "
                "path: give s3://..., or file:///path of a file system that all have"
            )
        return str(home_of(out).absolute())

    def ray_job(self, *words: str) -> None:
        """Runs `ray job` and prints a job's output without Ray's own lines; raises UserError with its last one."""
        variables = {**os.environ, SERVER: self.url, **({"RAY_AUTH_MODE": "token"} if _token() else {})}
        variables["PYTHONUNBUFFERED"] = "1"
        command = [sys.executable, "-m", "ray.scripts.scripts", "job", *words]
        with tempfile.TemporaryFile("w+") as said:
            with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=said, text=True) as process:
                for line in process.stdout or ():
                    if not RAYS.match(line):
                        sys.stdout.write(line)
                        sys.stdout.flush()
            said.seek(0)
            lines = said.read().strip().splitlines() or ["a job that failed"]
        if process.returncode:
            raise UserError(f"ray job {words[0]} at {self.url}: expected it to end well, got {lines[-1][:300]}")


def new_id(name: str) -> str:
    """Returns an id for a job of a name."""
    return f"freqbench-{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def submit(
    head: Dashboard, job: Texts, options: Sequence[str], packed: WorkingDirectory, env: Texts, follow: bool
) -> None:
    """Sends a job with its working directory `packed`, the options of `run`, and `env`, which all nodes and everyone
    see. Raises UserError if the head does not take the job, or if it fails while its output is shown, as `follow`
    asks."""
    own = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S), provenance.SENT_CODE: json.dumps(provenance.git_state())}
    # Without `exec` the signal that stops the job would reach a shell first.
    run = ["exec", "python", "-m", "freqbench", "run", packed.job, "--address", "auto", "--engine", "ray", *options]
    about = {"name": job["name"], "out": job["out"], "version": __version__}
    with tempfile.TemporaryDirectory() as folder:
        packed.unpack(Path(folder))
        sent = {"working_dir": folder, "py_modules": [str(Path(__file__).parents[1])], "excludes": ["__pycache__"]}
        words = ["--submission-id", job["id"], "--metadata-json", json.dumps(about)]
        words += ["--runtime-env-json", json.dumps({**sent, "env_vars": {**own, **env}})]
        head.ray_job("submit", *([] if follow else ["--no-wait"]), *words, "--", *run)


def hint(head: Dashboard) -> str:
    """Returns what completes a command so that it finds the head."""
    return "" if os.environ.get(SERVER, "").rstrip("/") == head.url else f" --address {shlex.quote(head.url)}"


def _token() -> str:
    """Returns the user's token, from where Ray keeps it; empty if none is there or wanted."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return ""
    place = home_of(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token")
    return os.environ.get("RAY_AUTH_TOKEN", "") or (place.read_text().strip() if place.is_file() else "")
