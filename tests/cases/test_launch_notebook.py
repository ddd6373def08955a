"""`stoker up notebook`: what it prints opens JupyterLab in a real browser, for whoever has the token and for nobody else."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import ssl
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.browser import PROGRAM, Browser
from tests.conftest import need
from tests.fakes import nvml
from tests.image_engines import Engine, free_port
from tests.launch_engines import Desk, desk_at

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(1500)]

CELL = """\
import os
from importlib.util import find_spec
if find_spec("torch"):
    import torch
    heights = (torch.sin(torch.linspace(0, 6.3, 60)) * 40 + 50).tolist()
else:
    import math
    heights = [math.sin(6.3 * k / 59) * 40 + 50 for k in range(60)]
from IPython.display import SVG
points = " ".join(f"{8 * k},{y:.1f}" for k, y in enumerate(heights))
print("uid", os.getuid(), "points", len(heights))
line = f'<polyline points="{points}" fill="none" stroke="tomato" stroke-width="3"/>'
SVG(f'<svg xmlns="http://www.w3.org/2000/svg" width="480" height="100">{line}</svg>')
"""


@dataclass(frozen=True, kw_only=True)
class Notebook:
    """A JupyterLab that was started by `stoker up notebook`."""

    desk: Desk
    said: str
    """What the command printed."""
    address: str
    """With the token."""
    token: str

    @property
    def plain(self) -> str:
        """The address of the server alone."""
        return "https://" + urllib.parse.urlsplit(self.address).netloc

    @property
    def port(self) -> int:
        """On this machine."""
        return int(urllib.parse.urlsplit(self.address).port or 0)

    @property
    def certificate(self) -> str:
        """What it made at its start, as PEM."""
        both = (self.desk.home / ".stoker/notebook/tls.pem").read_text()
        return both[both.index("-----BEGIN CERTIFICATE-----") :]

    @contextlib.contextmanager
    def browser(self, *, trusting: bool = True) -> Iterator[Browser]:
        """Open a browser for somebody who trusts its certificate, or not."""
        trusted = (self.certificate,) if trusting else ()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place, Browser(Path(place), self.port, trusted=trusted) as browser:
            yield browser

    def status(self, path: str, token: str | None) -> int:
        """Ask over verified TLS, with a token or without, and return the status."""
        asked = urllib.request.Request(self.plain + path, headers={"Authorization": f"token {token}"} if token else {})
        try:
            with urllib.request.urlopen(asked, context=ssl.create_default_context(cadata=self.certificate), timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refused:
            return refused.code


@pytest.fixture(scope="module")
def notebook(engine: Engine) -> Iterator[Notebook]:
    with desk_at(engine, named="whales") as desk:
        cell = {"cell_type": "code", "metadata": {}, "source": CELL, "outputs": [], "execution_count": None, "id": "a"}
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        desk.write("demo.ipynb", json.dumps({"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
        yield notebook_at(desk)


def notebook_at(desk: Desk, *options: str, **variables: str) -> Notebook:
    """Type `stoker up notebook` there."""
    done = desk.stoker("up", "notebook", "--image", desk.engine.image, *options, **variables)
    found = re.search(r"https://\S+", done.stdout)
    assert found, done.stdout + done.stderr
    token = urllib.parse.parse_qs(urllib.parse.urlsplit(found[0]).query)["token"][0]
    return Notebook(desk=desk, said=done.stdout + done.stderr, address=found[0], token=token)


def open_lab(browser: Browser, notebook: Notebook) -> None:
    """Open JupyterLab and wait until it can be clicked on."""
    assert browser.open(notebook.address) is None
    browser.wait_for("document.querySelector('.jp-DirListing-content') !== null", "the list of files")
    browser.wait_for("document.getElementById('jupyterlab-splash') === null", "the end of its start")


def test_a_cell_draws_in_a_browser(notebook: Notebook, tmp_path: Path) -> None:
    need(PROGRAM is not None and os.geteuid() == 0, "chromium, and root to give it a network of its own")
    with notebook.browser() as browser:
        assert browser.open(notebook.address) is None
        browser.wait_for("document.querySelector('.jp-DirListing-content') !== null", "the list of files")
        # The cookie has the token's place from here on.
        assert browser.open(f"{notebook.plain}/lab/tree/demo.ipynb") is None
        browser.wait_for("document.querySelector('.jp-NotebookPanel .jp-CodeCell .cm-content') !== null", "the notebook")
        browser.wait_for("document.querySelector('.jp-Notebook-ExecutionIndicator[data-status=idle]') !== null", "a kernel")
        browser.click(".jp-CodeCell .cm-content")
        browser.wait_for("document.body.innerText.includes('| Idle')", "the kernel in the status bar")
        browser.click("[data-command='notebook:run-cell-and-select-next']")
        # JupyterLab shows an SVG as an image.
        browser.wait_for("[...document.querySelectorAll('.jp-RenderedSVG img')].some(one => one.naturalWidth == 480)", "the drawing")
        assert f"uid {notebook.desk.uid} points 60" in browser.text()
        picture = browser.picture(tmp_path / "notebook.png")
        assert picture.stat().st_size > 10_000
        if keep := os.environ.get("STOKER_TEST_PICTURES"):
            shutil.copy(picture, Path(keep) / f"notebook-{notebook.desk.engine.command[0]}.png")
        assert browser.errors == []


def test_without_a_gpu_a_panel_says_why(notebook: Notebook, tmp_path: Path) -> None:
    need(PROGRAM is not None and os.geteuid() == 0, "chromium, and root to give it a network of its own")
    need(not Path("/dev/nvidia0").exists(), "a machine without GPU")
    with notebook.browser() as browser:
        open_lab(browser, notebook)
        assert browser.value("document.querySelector('.jp-SideBar [data-id=gpu-dashboard]')") is None
        browser.click(".jp-SideBar [data-id=stoker-gpu]")
        browser.wait_for("document.getElementById('stoker-gpu').offsetWidth > 0", "the panel")
        said = browser.value("document.getElementById('stoker-gpu').innerText")
        assert "No GPU" in said
        assert "There is no NVIDIA driver or GPU here." in said
        assert "stoker up notebook --gpus all" in said
        assert browser.picture(tmp_path / "panel.png").stat().st_size > 10_000
        if keep := os.environ.get("STOKER_TEST_PICTURES"):
            shutil.copy(tmp_path / "panel.png", Path(keep) / f"panel-{notebook.desk.engine.command[0]}.png")
        assert browser.errors == []
    assert notebook.status("/nvdashboard/gpu_utilization", notebook.token) == 404, "nvdashboard's half in the server is off, too"


def test_with_a_gpu_the_panel_is_nvdashboards(engine: Engine) -> None:
    need(PROGRAM is not None and os.geteuid() == 0, "chromium, and root to give it a network of its own")
    with desk_at(engine, named="cats") as desk:
        library = nvml.build(desk.folder / "driver")
        need(library is not None, "a C compiler")
        faked = ("-v", f"{library}:/opt/driver:ro", "-e", "LD_LIBRARY_PATH")
        notebook = notebook_at(desk, *faked, LD_LIBRARY_PATH="/opt/driver")
        with notebook.browser() as browser:
            open_lab(browser, notebook)
            assert browser.value("document.querySelector('.jp-SideBar [data-id=stoker-gpu]')") is None
            browser.click(".jp-SideBar [data-id=gpu-dashboard]")
            browser.wait_for("document.getElementById('gpu-dashboard').offsetWidth > 0", "nvdashboard's panel")
            browser.value("[...document.querySelectorAll('#gpu-dashboard button')].find(one => one.innerText.includes('GPU Memory')).click()")
            browser.wait_for("[...document.querySelectorAll('svg text')].some(one => one.textContent == 'GPU 1')", "a chart of both GPUs")
            assert browser.errors == []
        assert websocket_status(notebook, "/nvdashboard/gpu_utilization") in (302, 403)


def test_a_browser_without_token_or_certificate_stays_outside(notebook: Notebook) -> None:
    need(PROGRAM is not None and os.geteuid() == 0, "chromium, and root to give it a network of its own")
    with notebook.browser() as browser:
        assert browser.open(f"{notebook.plain}/lab") is None
        browser.wait_for("location.pathname.includes('/login')", "the page that asks for the token")
        assert browser.open(f"{notebook.plain}/lab?token=wrong") is None
        browser.wait_for("location.pathname.includes('/login')", "the page that asks for the token")
        assert "jp-DirListing" not in str(browser.value("document.body.innerHTML"))
    with notebook.browser(trusting=False) as browser:
        assert browser.open(notebook.address) == "net::ERR_CERT_AUTHORITY_INVALID"


@pytest.mark.parametrize("path", ["/api/kernels", "/api/contents", "/api/terminals", "/files/demo.ipynb"])
def test_only_the_token_opens(notebook: Notebook, path: str) -> None:
    assert notebook.status(path, None) in (401, 403) or path.startswith("/files")
    assert notebook.status(path, "x" * len(notebook.token)) in (401, 403) or path.startswith("/files")
    assert notebook.status(path, notebook.token) == 200


@pytest.mark.parametrize("path", ["/api/events/subscribe", "/terminals/websocket/1", "/lsp/ws/x"])
def test_no_websocket_without_the_token(notebook: Notebook, path: str) -> None:
    assert websocket_status(notebook, path) in (302, 403)


def websocket_status(notebook: Notebook, path: str) -> int:
    """Ask for a websocket without the token. Extensions bring their own, some without asking who it is."""
    parts = urllib.parse.urlsplit(notebook.plain)
    lines = [f"GET {path} HTTP/1.1", f"Host: {parts.netloc}", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    asked = "\r\n".join([*lines, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", ""])
    context = ssl.create_default_context(cadata=notebook.certificate)
    plain = socket.create_connection((str(parts.hostname), notebook.port), timeout=10)
    with context.wrap_socket(plain, server_hostname=parts.hostname) as connection:
        connection.sendall(asked.encode())
        return int(connection.recv(100).split()[1])


def test_nothing_but_tls_on_this_machine_only(notebook: Notebook) -> None:
    host = str(urllib.parse.urlsplit(notebook.plain).hostname)
    assert host in ("127.0.0.1", "localhost")
    with socket.create_connection((host, notebook.port), timeout=10) as plain:
        plain.sendall(b"GET /api/status HTTP/1.0\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP" not in plain.recv(100)
    with pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(socket.create_connection((host, notebook.port), timeout=10), server_hostname=host)
    assert [address for address in own_addresses() if reaches(address, notebook.port)] == []


def test_asked_again_it_says_the_same_address(notebook: Notebook) -> None:
    before = notebook.desk.inspect("whales-notebook")["Id"]
    assert notebook.address in notebook.desk.stoker("up", "notebook", "--image", notebook.desk.engine.image).stdout
    assert notebook.desk.inspect("whales-notebook")["Id"] == before
    row = notebook.desk.rows()["whales-notebook"]
    assert (row["kind"], row["state"]) == ("notebook", "running")


def test_the_token_is_nowhere_but_in_its_file(notebook: Notebook) -> None:
    desk = notebook.desk
    kept = desk.home / ".stoker/notebook/token"
    assert (kept.read_text(), kept.stat().st_mode & 0o777, kept.stat().st_uid) == (notebook.token, 0o600, desk.uid)
    seen = [desk.engine.run("inspect", "stoker-whales-notebook").stdout, desk.engine.run("ps", "--all", "--no-trunc").stdout]
    log = desk.engine.run("logs", "stoker-whales-notebook")
    seen += [log.stdout, log.stderr, *commands_of_all_processes()]
    for words in (["ps", "--all", "--json"], ["ps", "--all"], ["logs", "whales-notebook"]):
        done = desk.stoker(*words)
        seen += [done.stdout, done.stderr]
    assert [text for text in seen if notebook.token in text] == []
    assert any("whales-notebook" in text for text in seen)
    assert files_with(notebook.token, desk.engine.folder, desk.person) == []


def test_all_is_there_after_it_was_removed_and_started_again(engine: Engine) -> None:
    with desk_at(engine, uid=1000) as desk:
        first = desk.stoker("up", "notebook", "--image", engine.image, "--name", "mine").stdout
        certificate = (desk.home / ".stoker/notebook/tls.pem").read_bytes()
        desk.stoker("stop", "mine")
        desk.stoker("rm", "mine")
        assert desk.containers() == []
        second = desk.stoker("up", "notebook", "--image", engine.image, "--name", "mine").stdout
        assert token_of(first) == token_of(second)
        assert (desk.home / ".stoker/notebook/tls.pem").read_bytes() == certificate


def test_ports_that_are_taken(desk: Desk) -> None:
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # somebody has it already: as well
            held.enter_context(socket.create_server(("127.0.0.1", 8888)))
        address = re.search(r"https://\S+", desk.stoker("up", "notebook", "--image", desk.engine.image).stdout)
        assert address
        assert ":8888" not in address[0]
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        done = desk.stoker("up", "notebook", "--image", desk.engine.image, "--name", "other", "--port", str(port), status=82)
    assert str(port) in done.stderr
    assert desk.containers() == ["stoker-pets-notebook"]


def test_an_image_without_a_notebook(desk: Desk) -> None:
    done = desk.stoker("up", "notebook", "--image", "localhost/no-such-image", status=None)
    assert done.returncode in (75, 78)
    assert "no-such-image" in done.stderr
    assert desk.containers() == []


def token_of(text: str) -> str:
    found = re.search(r"token=([\w-]+)", text)
    assert found, text
    return found[1]


def own_addresses() -> list[str]:
    """Return the addresses of this machine that are not its loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect(("192.0.2.1", 9))
        except OSError:
            return []
        return [str(asked.getsockname()[0])]


def reaches(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=3).close()
    except OSError:
        return False
    return True


def commands_of_all_processes() -> list[str]:
    """Return what `ps` shows to everybody."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def files_with(word: str, *folders: Path) -> list[Path]:
    """Return the small files below folders that have a word in them, but for what lies in layers of images and mounted folders, and for networks
    that are mounted as files."""
    found: list[Path] = []
    for folder in folders:
        for place, names, files in os.walk(folder):
            names[:] = [name for name in names if name not in ("overlay", "overlay2", "merged", "diff", "snapshots", "content", "netns")]
            for name in files:
                path = Path(place) / name
                if path.is_file() and path.stat().st_size < 1 << 22 and word.encode() in path.read_bytes():
                    found.append(path)
    return found
