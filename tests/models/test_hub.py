"""`hf://` and `monai://`: fetched once by commit from a server that speaks the hub's protocol."""

import hashlib
import json
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest
import tiny_job
from command_line import Bench, done, refused
from models.test_bundle import written

import freqbench as fb
from freqbench.core.errors import CheckpointError, MissingDataError, UserError
from freqbench.core.files import storage
from freqbench.models import READERS, ModelEntry, ModelSpec, hub, resolve

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed: pip install '.[hub]'")

REPO = "lab/unet"
FILE = "weights/best.safetensors"
TOKEN = "hf_secret"
URI = f"hf://{REPO}/{FILE}@main"
OLD = "a" * 40
NEW = "b" * 40


class Hub:
    """Repositories on loopback, and what was asked of them: the API, files, and large files on a host of their own."""

    def __init__(self) -> None:
        self.commits: dict[tuple[str, str], dict[str, bytes]] = {}
        self.names: dict[tuple[str, str], str] = {}
        self.private: set[str] = set()
        self.asked: list[str] = []
        self.tokens: list[str | None] = []  # that large files were asked with
        self.large: dict[str, bytes] = {}  # by the SHA-256 that the hub states
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), self._handler()) for _ in range(2)]
        self.address, self.store = (f"http://127.0.0.1:{server.server_port}" for server in self.servers)
        for server in self.servers:
            Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def put(self, repo: str, commit: str, files: dict[str, bytes], *names: str) -> None:
        self.commits[repo, commit] = files
        self.names |= {(repo, name): commit for name in names}
        self.large |= {hashlib.sha256(content).hexdigest(): content for content in files.values()}

    def stop(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def _handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append(path := unquote(urlsplit(self.path).path))
                token = self.headers["Authorization"]
                parts = path.strip("/").split("/")
                if parts[0] == "large":
                    hub.tokens.append(token)
                    return self.answer(200, hub.large[parts[1]])
                if parts[0] == "api":
                    repo = "/".join(parts[2:4])
                    revision = "/".join(parts[5:])
                else:
                    repo = "/".join(parts[:2])
                    revision = parts[3]
                if repo in hub.private and token != f"Bearer {TOKEN}":
                    return self.answer(401, b"Invalid username or password.")
                if not any(known == repo for known, _ in hub.commits):
                    return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
                commit = hub.names.get((repo, revision), revision)
                if (repo, commit) not in hub.commits:
                    return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
                files = hub.commits[repo, commit]
                if parts[0] == "api":
                    listed = [self.listed(name, content) for name, content in files.items()]
                    content = json.dumps({"id": repo, "sha": commit, "siblings": listed}).encode()
                    return self.answer(200, content, {"Content-Type": "application/json"})
                content = files["/".join(parts[4:])]
                sha256 = hashlib.sha256(content).hexdigest()
                facts = {"X-Repo-Commit": commit, "ETag": f'"{sha256}"'}
                if path.endswith(".json"):
                    return self.answer(200, content, facts)
                return self.answer(302, b"", {**facts, "Location": f"{hub.store}/large/{sha256}"})

            def listed(self, name: str, content: bytes) -> dict[str, object]:
                facts: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
                lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
                return facts if name.endswith(".json") else {**facts, "lfs": lfs}

            def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """Says nothing."""

        return Handler


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for variable in ("FREQBENCH_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    server = Hub()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    yield server
    server.stop()


@pytest.fixture
def weights(server: Hub, tmp_path: Path) -> Path:
    """The local file that the branch `main` has too."""
    tiny_job.save_weights(tmp_path / "best.safetensors")
    server.put(REPO, OLD, {FILE: (tmp_path / "best.safetensors").read_bytes(), "README.md": b"# UNet"}, "main", "v1")
    return tmp_path / "best.safetensors"


def resolved(uri: str) -> ModelSpec:
    return resolve(ModelEntry(name="m", checkpoint=uri, expected_dice=0.01), 6)


def test_file_is_fetched_once_and_is_model_that_local_file_is(server: Hub, weights: Path) -> None:
    specs = [resolved(uri) for uri in (URI, f"hf://{REPO}/{FILE}@v1", f"hf://{REPO}/{FILE}@{OLD}")]
    assert {spec.model_id for spec in specs} == {resolved(str(weights)).model_id}
    assert {spec.checkpoint for spec in specs} == {f"hf://{REPO}/{FILE}@{OLD}"}  # what workers and run.json get
    assert [path for path in server.asked if "large" in path or "resolve" in path] == [
        f"/{REPO}/resolve/{OLD}/{FILE}",
        f"/large/{hashlib.sha256(weights.read_bytes()).hexdigest()}",
    ]
    assert f"m: main of {REPO} is commit {OLD}" in specs[0].notes
    assert not any("commit" in note for note in specs[2].notes)


@pytest.mark.usefixtures("weights")
def test_a_branch_keeps_its_last_commit_without_internet_access(server: Hub) -> None:
    before = resolved(URI)
    server.stop()
    after = resolved(URI)
    pinned = resolved(before.checkpoint)
    assert before.model_id == after.model_id == pinned.model_id
    note = f"m: main of {REPO} is commit {OLD}, by the last answer of the hub, which cannot be reached now"
    assert note in after.notes
    assert not any("commit" in note for note in pinned.notes)


def test_moved_branch_is_another_model(server: Hub, weights: Path) -> None:
    before = resolved(URI)
    tiny_job.save_weights(weights, seed=1)
    server.put(REPO, NEW, {FILE: weights.read_bytes()}, "main")
    after = resolved(URI)
    assert (after.checkpoint, after.model_id) != (before.checkpoint, before.model_id)
    assert (after.checkpoint, resolved(before.checkpoint).model_id) == (f"hf://{REPO}/{FILE}@{NEW}", before.model_id)


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize("way", ["FREQBENCH_OFFLINE", "no server"])
def test_uncached_and_offline_is_refused(server: Hub, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    if way == "no server":
        server.stop()
    else:
        monkeypatch.setenv(way, "1")
    with pytest.raises(MissingDataError) as caught:
        resolved(URI)
    assert str(caught.value).startswith(f"{URI}: run once with internet access, or set HF_ENDPOINT to a mirror: ")
    assert f"found neither; tried {server.address} (" in str(caught.value)
    assert server.asked == []


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize(
    ("uri", "text"),
    [
        (f"hf://lab/none/{FILE}@main", "refuses it (404 Client Error."),
        (f"hf://{REPO}/{FILE}@v2", "refuses it (404 Client Error."),
        (
            f"hf://{REPO}/weights/bets.safetensors@v1",
            f"unknown file or folder of a network 'weights/bets.safetensors'. Did you mean '{FILE}'?",
        ),
        (f"hf://{REPO}/{FILE}", "expected hf://ORG/REPO/FILE@REVISION, got another form: name a commit, a tag or a"),
        ("hf://unet@main", "expected hf://ORG/REPO/FILE@REVISION, got another form"),
        ("monai://spleen", "expected monai://BUNDLE@VERSION, got another form"),
    ],
)
def test_repository_revision_path_or_form_none_is_refused(uri: str, text: str) -> None:
    with pytest.raises(UserError) as caught:
        resolved(uri)
    assert str(caught.value).startswith(uri.partition("@")[0])
    assert text in str(caught.value)


@pytest.mark.usefixtures("weights")
def test_librarys_token_is_seen_by_its_host_alone(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.private.add(REPO)
    with pytest.raises(CheckpointError, match="a private or gated one needs HF_TOKEN"):
        resolved(URI)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert resolved(URI).checkpoint.endswith(OLD)
    assert server.tokens == [None]


def test_other_content_than_the_hub_states_is_refused(server: Hub, weights: Path) -> None:
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    server.large[sha256] = bytes(weights.stat().st_size)
    with pytest.raises(UserError, match=rf"expected sha256 {sha256[:12]}\.\.\., got \w{{12}}\.\.\.: it is damaged"):
        resolved(URI)


def test_a_name_that_leads_out_of_the_cache_is_refused(server: Hub) -> None:
    server.put(REPO, OLD, {"../../escaped.json": b"{}"}, "main")
    with pytest.raises(UserError, match=r"expected names of files below it, got '\.\./\.\./escaped\.json'"):
        storage.exists(f"hf://{REPO}@main")
    assert not [path for path in server.asked if "resolve" in path]


@pytest.mark.parametrize("uri", ["monai://spleen@0.5.3", "hf://MONAI/spleen@0.5.3", "hf://lab/all/spleen@main"])
def test_bundle_is_the_local_folders_read_part(server: Hub, tmp_path: Path, uri: str) -> None:
    folder = Path(written(tmp_path))
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
    beside = {"docs/README.md": b"# spleen", "models/model.ts": b"frozen"}
    server.put("MONAI/spleen", OLD, files | beside, "0.5.3")
    server.put("lab/all", OLD, {f"spleen/{name}": content for name, content in (files | beside).items()}, "main")
    spec = resolve(ModelEntry(name="m", bundle=uri), 3)
    assert spec.model_id == resolve(ModelEntry(name="m", bundle=str(folder)), 3).model_id
    assert not [path for path in server.asked if path.endswith(("README.md", "model.ts"))]
    if uri.startswith("monai://"):
        assert resolve(ModelEntry(name="m", checkpoint=uri), 3).model_id == spec.model_id
        with pytest.warns(UserWarning, match=f"0.5.3 of MONAI/spleen is commit {OLD}"):
            assert fb.load_model(uri).spec.model_id == spec.model_id


def test_monais_own_download_asks_same_repository_and_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub
    from monai import bundle

    calls: list[dict[str, str]] = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda **asked: calls.append(asked))
    bundle.download("spleen", version="0.5.3", bundle_dir=str(tmp_path), source="monaihosting", progress=False)
    place = hub._parse("monai://spleen@0.5.3")
    assert [(asked["repo_id"], asked["revision"]) for asked in calls] == [(place.repo, place.revision)]


def test_a_folder_is_fetched_with_all_that_its_readers_may_read() -> None:
    patterns = {*chain.from_iterable(kind.files({}) for kind in READERS.values() if kind.files)}
    names = {pattern.replace("*", "x") for pattern in patterns}
    assert [name for name in names if not any(fnmatch(name, pattern) for pattern in hub.READ)] == []


def test_a_missing_package_is_one_line_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FREQBENCH_CACHE", str(tmp_path))
    monkeypatch.delenv("FREQBENCH_OFFLINE", raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"expected the package huggingface_hub, got none: pip install '\.\[hub\]' in"):
        resolved(URI)


@pytest.mark.usefixtures("weights")
def test_plan_counts_file_and_says_its_commit(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tiny_job.write(tmp_path, tiny_job.small(models=[{"name": "m", "checkpoint": URI, "expected_dice": 0.01}]))
    monkeypatch.setenv("FREQBENCH_OFFLINE", "1")
    assert f"missing: model m: {URI}: run once" in bench("plan", job, "--out", str(tmp_path / "o"))[1]
    assert "found neither; tried http://127.0.0.1" in refused(bench, "run", job, "--out", str(tmp_path / "o"))
    monkeypatch.delenv("FREQBENCH_OFFLINE")
    out = done(bench, "plan", job, "--out", str(tmp_path / "o"))
    assert f"main of {REPO} is commit {OLD}" in out


@pytest.mark.usefixtures("server", "weights")
def test_a_damaged_record_of_the_hub_is_not_believed(caplog: pytest.LogCaptureFixture) -> None:
    hub.local(URI)
    record = hub._parse(URI).record
    record.write_text(record.read_text().replace(OLD, OLD[:-1] + "b"))
    assert hub._ask_hub(URI, hub._parse(URI))[0].commit == OLD
    assert f"{record}: expected the hub's answer, got a damaged file" in caplog.text
