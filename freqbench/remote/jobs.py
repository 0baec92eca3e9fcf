"""Sends jobs to a Ray cluster, follows, stops and lists them, through Ray's Jobs API."""

import asyncio
import json
import logging
import os
import re
import secrets
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import ray
import requests
from aiohttp import ClientError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient
from ray.util.state import StateApiClient
from ray.util.state.common import ListApiOptions, StateResource
from ray.util.state.exception import RayStateApiException

from freqbench.core import __version__
from freqbench.core.errors import UserError
from freqbench.core.names import home_of
from freqbench.engine import provenance
from freqbench.engine.ray.ray_cluster import environment
from freqbench.remote.working_directory import WorkingDirectory, refuse_credentials

ANSWER_S = 15.0  # limit for an answer of the head
QUIET_S = 60.0  # after this silence of a job, its head is asked for a sign of life
RECONNECT_S = 120.0
STOP_S = 120  # a run finishes and stores work in flight
POLL_S = 1.0

_SERVER = "RAY_API_SERVER_ADDRESS"  # Ray's clients take the address from it, whatever they are given
_RAYS_OWN = re.compile(r"^[\d-]{10} [\d:,]+\tINFO job_manager\.py:\d+ -- .*\n", re.MULTILINE)  # lines of a job's log
_KEPT_CODES = (1, 2, 130)


class LostError(UserError):
    """Raised if no head answers, or something else does: it may come back, as far as a client can tell."""


class Dashboard:
    """Dashboard of a cluster's head: `http://HEAD:8265`; None: RAY_API_SERVER_ADDRESS.

    The token is Ray's own: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or its file. Raises UserError where no head answers, it
    refuses the token, or it has another version of Ray.
    """

    def __init__(self, address: str | None) -> None:
        self.url = _url(address)
        self._headers = _token_header()
        theirs = self._require_answer()
        if theirs.split(".")[:2] != ray.__version__.split(".")[:2]:
            raise UserError(
                f"{self.url}: expected Ray {ray.__version__}, got a cluster of Ray {theirs}: install the same"
            )
        with self._explain_errors(), environment({_SERVER: self.url}):
            self._client = JobSubmissionClient(self.url, headers=self._headers)

    def num_nodes(self) -> int:
        """Counts the machines that are alive."""
        alive = ListApiOptions(filters=[("state", "=", "ALIVE")], limit=10_000, timeout=int(ANSWER_S))  # Ray's most
        with self._explain_errors(), environment({_SERVER: self.url}):
            client = StateApiClient(address=self.url, headers=self._headers)
            return len(client.list(StateResource.NODES, options=alive, raise_on_missing_output=False))

    def submit(
        self, name: str, packed: WorkingDirectory, out: str, options: Sequence[str], variables: Mapping[str, str]
    ) -> str:
        """Sends a job with its working directory and the options of `run`, as words, and returns its id.

        The job has `variables` in its environment on all nodes, where everyone can read them. Raises UserError if
        the nodes cannot share `out`, folder or URI of the store, or the head does not take the job.
        """
        place = self.shared_place(out, "--out")
        job_id = f"freqbench-{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        words = ["python", "-m", "freqbench", "run", packed.job, "--address", "auto", "--engine", "ray", "--out", place]
        state = json.dumps(provenance.git_state())
        own_variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S), provenance.SENT_CODE: state}
        with tempfile.TemporaryDirectory() as folder, self._explain_errors():
            packed.unpack(Path(folder))
            self._client.submit_job(
                # Without `exec` the signal that stops the job would reach a shell first.
                entrypoint=f"exec {shlex.join([*words, *options])}",
                submission_id=job_id,
                metadata={"name": name, "out": place, "version": __version__},
                runtime_env={
                    "working_dir": folder,
                    "py_modules": [str(Path(__file__).parents[1])],
                    "excludes": ["__pycache__"],
                    "env_vars": {**own_variables, **variables},
                },
            )
        return job_id

    def shared_place(self, out: str, what: str) -> str:
        """Returns a place for results that all nodes share; `what` begins the line of an error."""
        refuse_credentials(out, what)
        protocol, is_uri, _ = out.partition("://")
        if is_uri:
            if protocol not in fsspec.available_protocols():
                raise UserError(f"{what} {out}: expected a URI that fsspec knows (s3://, gs://, abfs://, file:///)")
            return out
        nodes = self.num_nodes()
        if nodes > 1:
            raise UserError(
                f"{what} {out}: expected a place that the {nodes} nodes of the cluster share, got a plain path: give "
                "s3://..., or file:///path of a file system that all have"
            )
        return str(home_of(out).absolute())

    def details(self, job_id: str) -> JobDetails:
        """Returns the head's facts of a job; raises UserError for an unknown id."""
        with self._explain_errors(job_id):
            return self._client.get_job_info(job_id)

    def jobs(self) -> list[JobDetails]:
        """Lists all jobs that were submitted, the latest last."""
        with self._explain_errors():
            submitted = [job for job in self._client.list_jobs() if job.submission_id]
        return sorted(submitted, key=lambda job: job.start_time or 0)

    def log(self, job_id: str) -> str:
        """Returns all output of a job, without Ray's own lines; empty if its node is gone."""
        with self._explain_errors(job_id):
            try:
                return _RAYS_OWN.sub("", str(self._client.get_job_logs(job_id)))
            except RuntimeError as error:
                if "status code 5" in str(error):
                    return ""
                raise

    def stop(self, job_id: str) -> JobDetails:
        """Stops a job as Ctrl-C would, and waits until it has ended, or for as long as a run may take to flush."""
        with self._explain_errors(job_id):
            self._client.stop_job(job_id)
        end = time.monotonic() + STOP_S + ANSWER_S
        while not (details := self.details(job_id)).status.is_terminal() and time.monotonic() < end:
            time.sleep(POLL_S)
        return details

    async def follow(self, job_id: str, write: Callable[[str], object]) -> JobDetails:
        """Writes a job's output from its beginning until it has ended; reconnects if the connection breaks.

        Raises UserError for no such job, and where its head has been gone for RECONNECT_S.
        """
        written, heard, had_ended = 0, time.monotonic(), False
        while True:
            position, is_whole, tail = 0, False, self._client.tail_job_logs(job_id)
            with _silent(), suppress(ClientError, OSError, RuntimeError):  # a lost head is noticed below
                while text := await asyncio.wait_for(anext(tail, ""), QUIET_S):
                    write(_RAYS_OWN.sub("", text[max(0, written - position) :]))
                    position += len(text)
                    written = max(written, position)
                is_whole = True
            try:
                details = self.details(job_id)
                if details.status.is_terminal() and (is_whole or had_ended):
                    return details
                had_ended, heard = details.status.is_terminal(), time.monotonic()
            except LostError:
                if time.monotonic() - heard > RECONNECT_S:
                    raise
            await asyncio.sleep(POLL_S)

    def _require_answer(self) -> str:
        """Asks for the head's version of Ray with a limit of time, which Ray's own clients do not have."""
        try:
            answer = requests.get(f"{self.url}/api/version", headers=self._headers, timeout=ANSWER_S)
        except OSError:
            raise self._lost_error("no answer") from None
        if answer.status_code in (401, 403):
            raise UserError(
                f"{self.url}: expected a token that this head takes ({_line(answer.text)}): set RAY_AUTH_TOKEN or "
                "RAY_AUTH_TOKEN_PATH to the cluster's"
            )
        try:
            return str(answer.json()["ray_version"])
        except (ValueError, KeyError, TypeError):
            raise self._lost_error(f"an answer without its version (status {answer.status_code})") from None

    @contextmanager
    def _explain_errors(self, job_id: str | None = None) -> Iterator[None]:
        """Turns errors between here and the head into one line."""
        self._require_answer()
        try:
            with _silent():
                yield
        except UserError:
            raise
        except (OSError, RuntimeError, ValueError, KeyError, RayStateApiException) as error:
            if job_id and "status code 404" in str(error):
                raise UserError(
                    f"{job_id}: expected a job that {self.url} knows, found none: see freqbench cluster list; the same "
                    "job with the same --out goes on where the store ends"
                ) from None
            raise self._lost_error(_line(str(error)) or type(error).__name__) from None

    def _lost_error(self, got: str) -> LostError:
        return LostError(
            f"{self.url}: expected the dashboard of a Ray head, got {got}: check --address (its port is 8265 unless "
            "told otherwise) and that the cluster is up"
        )


def exit_code(details: JobDetails) -> int:
    """Exit code that `run` would have left: 0, 1, 2 or 130; 1 also if something else ended it."""
    if details.status == JobStatus.SUCCEEDED:
        return 0
    if details.status == JobStatus.STOPPED:
        return 130
    return details.driver_exit_code if details.driver_exit_code in _KEPT_CODES else 1


def _url(address: str | None) -> str:
    if not address:
        raise UserError(f"expected --address http://HEAD:8265, or {_SERVER}, got neither: give the head's dashboard")
    url = (address if "://" in address else f"http://{address}").rstrip("/")
    if not re.fullmatch(r"https?://[^/\s]\S*", url):
        raise UserError(f"--address {address}: expected http://HEAD:8265, the dashboard of the head")
    return url


def _token_header() -> dict[str, str]:
    """Makes the header with the user's token, from where Ray keeps it; empty if none is there or wanted."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    place = home_of(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token")
    if not token and place.is_file():
        token = place.read_text().strip()
    return {"Authorization": f"Bearer {token}"} if token else {}


@contextmanager
def _silent() -> Iterator[None]:
    """Silences Ray's clients, which log tokens, uploads and connections."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _line(text: str) -> str:
    return " ".join(text.split()).partition(". ")[0][:200]
