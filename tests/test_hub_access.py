"""The Hub: asked once, waited for at most two seconds, and never the last word where a copy lies in the cache."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import datasets
import pytest
from huggingface_hub import constants, file_download
from tiny import save_text_model

from hf_sft import hub_access
from hf_sft.data.load import load_source
from hf_sft.errors import DataError, HfSftError, ModelError
from hf_sft.hub_access import hub_is_reachable, require_hub
from hf_sft.modeling.build import read_config
from hf_sft.recipe import Recipe

MODEL, DATA = "someone/some-model", "someone/SomeData"
Connect = Callable[[str], None]


def load_data() -> Any:
    """What a recipe that names DATA reads."""
    content = {"task": "text-classification", "model": {"name": MODEL}, "dataset": {"path": DATA}}
    return load_source(Recipe.from_dict(content))


ASKED: dict[str, tuple[Callable[[], Any], type[HfSftError], str]] = {
    "model.name": (lambda: read_config(MODEL), ModelError, MODEL),
    "dataset.path": (load_data, DataError, DATA),
}


@pytest.fixture
def connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Puts the libraries online at an endpoint, with empty caches, as if the process had just begun."""

    def go(endpoint: str, *, offline: bool = False) -> None:
        hub_access.hub_obstacle.cache_clear()
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", endpoint)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)

    yield go
    hub_access.hub_obstacle.cache_clear()


class Hub(BaseHTTPRequestHandler):
    """Answers every request for a repository with one status, code and message; its front page is there."""

    answer: tuple[int, str, str] = (404, "RepoNotFound", "Repository not found")
    seen: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.seen.append(f"{self.command} {self.path}")
        status, code, message = (200, "", "") if self.path in ("", "/") else self.answer
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_HEAD

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    """(endpoint, handler) of a server on this machine."""
    handler = type("Handler", (Hub,), {"seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def closed() -> str:
    """An endpoint where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as place:
        return f"http://127.0.0.1:{place.getsockname()[1]}"


@pytest.fixture
def mute() -> Iterator[str]:
    """An endpoint that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as place:
        yield f"http://127.0.0.1:{place.getsockname()[1]}"


def test_a_process_probes_once(connect: Connect, hub: tuple[str, type[Hub]]) -> None:
    endpoint, handler = hub
    connect(endpoint)
    assert hub_is_reachable() and hub_is_reachable()
    require_hub("model.name", MODEL, "model")
    assert len(handler.seen) == 1


@pytest.mark.parametrize("status", [200, 302, 401, 403, 404, 429])
def test_a_hub_that_answers_is_there(status: int, connect: Connect, hub: tuple[str, type[Hub]]) -> None:
    endpoint, handler = hub
    handler.answer = (status, "", "")
    connect(f"{endpoint}/mirror")
    assert hub_is_reachable()


@pytest.mark.parametrize("status", [407, 500, 502, 503, 504])
def test_a_proxy_or_a_fault_that_answers_for_the_hub_is_not_the_hub(
    status: int, connect: Connect, hub: tuple[str, type[Hub]]
) -> None:
    endpoint, handler = hub
    handler.answer = (status, "", "")
    connect(f"{endpoint}/mirror")
    with pytest.raises(DataError, match=f"it answers {status}"):
        require_hub("dataset.path", DATA, "dataset")


def test_offline_mode_is_not_probed(connect: Any, hub: tuple[str, type[Hub]]) -> None:
    endpoint, handler = hub
    connect(endpoint, offline=True)
    assert not hub_is_reachable()
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE"):
        require_hub("model.name", MODEL, "model")
    assert not handler.seen


@pytest.mark.parametrize("place", ASKED)
def test_an_unreachable_hub_is_one_finding_that_names_the_key_and_what_runs_without_it(
    place: str, connect: Connect, closed: str
) -> None:
    ask, error, name = ASKED[place]
    connect(closed)
    with pytest.raises(error) as caught:
        ask()
    (finding,) = caught.value.findings
    assert finding.place == place and caught.value.exit_code == 2
    assert name in finding.expected and "cache" in finding.expected
    assert closed in finding.found and "refused" in finding.found
    assert "local" in finding.fix and "hf-sft run bundled:bert_sentiment" in finding.fix


@pytest.mark.parametrize("place", ASKED)
def test_a_hub_that_is_silent_is_given_up_within_two_seconds(place: str, connect: Connect, mute: str) -> None:
    ask, error, _ = ASKED[place]
    connect(mute)
    started = time.perf_counter()
    with pytest.raises(error, match=r"no answer within 1\.8 seconds"):
        ask()
    assert 1.0 < time.perf_counter() - started < 2.0
    with pytest.raises(error):
        ask()
    assert time.perf_counter() - started < 2.2, "the second time nothing is asked"


def test_a_name_server_that_is_silent_is_given_up_too(monkeypatch: pytest.MonkeyPatch, connect: Connect) -> None:
    monkeypatch.setattr(hub_access, "PATIENCE", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: time.sleep(1) or [])
    connect("https://hub.invalid")
    started = time.perf_counter()
    assert not hub_is_reachable()
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize("endpoint", ["nonsense", "ftp://127.0.0.1", "http://"])
def test_an_endpoint_that_is_no_address_is_said_to_be_one(endpoint: str, connect: Connect) -> None:
    connect(endpoint)
    with pytest.raises(ModelError) as caught:
        require_hub("model.name", MODEL, "model")
    assert f"{endpoint} cannot be reached" in str(caught.value)


def test_what_is_no_id_needs_no_hub(connect: Connect, closed: str, tmp_path: Path, monkeypatch: Any) -> None:
    connect(closed)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("/a/folder", "here", "one/two/three", "https://somewhere.org/rows.csv", "two words"):
        require_hub("dataset.path", name, "dataset")


def cache_model(folder: Path) -> Path:
    """A tiny model where huggingface_hub keeps what it has downloaded of MODEL."""
    root = folder / ("models--" + MODEL.replace("/", "--"))
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    return save_text_model("bert", root / "snapshots" / ("0" * 40))


def cache_data(folder: Path) -> None:
    """Three rows where datasets keeps what it has prepared of DATA."""
    rows = folder.parent / "rows.csv"
    rows.write_text("text,label\na,x\nb,y\nc,x\n")
    datasets.load_dataset("csv", data_files=str(rows), cache_dir=str(folder))
    (made,) = folder.glob("csv/*/*/*/dataset_info.json")
    target = folder / "someone___some_data" / "default" / "0.0.0" / made.parent.name
    shutil.copytree(made.parent, target)
    (target / "csv-train.arrow").rename(target / "some_data-train.arrow")
    info = json.loads((target / "dataset_info.json").read_text())
    info |= {"config_name": "default", "dataset_name": "some_data"}
    info["splits"]["train"]["dataset_name"] = "some_data"
    (target / "dataset_info.json").write_text(json.dumps(info))


@pytest.mark.parametrize("offline", [False, True], ids=["unreachable", "switched off"])
def test_what_is_cached_loads_without_the_hub(
    offline: bool, connect: Any, closed: str, tmp_path: Path, capsys: Any
) -> None:
    connect(closed, offline=offline)
    cache_model(tmp_path / "hub")
    cache_data(tmp_path / "datasets")
    started = time.perf_counter()
    config = read_config(MODEL)
    source, origin = load_data()
    assert time.perf_counter() - started < 2
    assert constants.HF_HUB_OFFLINE and datasets.config.HF_HUB_OFFLINE, "nothing else waits either"
    assert config.model_type == "bert" and origin == DATA
    assert source["train"]["label"][:] == ["x", "y", "x"]
    said = capsys.readouterr()
    assert f"using the copy of {MODEL} in the cache" in said.out + said.err


REFUSALS: dict[str, tuple[tuple[int, str, str], str]] = {
    "not found": ((404, "RepoNotFound", "Repository not found"), "check the id"),
    "private or not there": ((401, "RepoNotFound", "Invalid username or password."), "hf auth login"),
    "gated, nobody logged in": ((401, "GatedRepo", "Access to this resource is gated"), "hf auth login"),
    "gated, not accepted yet": ((403, "GatedRepo", "Access to this resource is gated"), "conditions"),
}


@pytest.mark.parametrize("place", ASKED)
@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_hub_that_refuses_says_so_itself(
    place: str, refusal: str, connect: Connect, hub: tuple[str, type[Hub]]
) -> None:
    ask, error, name = ASKED[place]
    endpoint, handler = hub
    handler.answer, fix = REFUSALS[refusal]
    connect(endpoint)
    with pytest.raises(error) as caught:
        ask()
    (finding,) = caught.value.findings
    assert finding.place == place and name in finding.expected
    assert fix in finding.fix, finding
    assert "reach" not in finding.found
    assert hub_is_reachable() and not constants.HF_HUB_OFFLINE


def test_an_unknown_revision_is_not_a_missing_model(connect: Connect, hub: tuple[str, type[Hub]]) -> None:
    endpoint, handler = hub
    handler.answer = (404, "RevisionNotFound", "Invalid rev id: nothing")
    connect(endpoint)
    with pytest.raises(ModelError, match="branch, tag or commit"):
        read_config(MODEL, revision="nothing")
