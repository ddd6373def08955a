"""The GPU panel of a JupyterLab without GPU: what Jupyter is told, where, and what the extension is made of."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from stoker.start.panel import DATA, OPTION, without_gpu

EXTENSION = DATA / "labextensions/stoker-gpu"


def page(variables: dict[str, str]) -> Path:
    """The file from which JupyterLab takes the reason."""
    return Path(variables["JUPYTER_CONFIG_PATH"].split(":")[-1]) / "labconfig/page_config.json"


def test_jupyter_is_told_the_reason_as_a_sentence(tmp_path: Path) -> None:
    found = without_gpu('no "driver" </script>', tmp_path, {})
    assert json.loads(page(found).read_text()) == {OPTION: 'No "driver" </script>.'}
    assert found["JUPYTER_PATH"] == str(DATA)
    assert found["JUPYTER_CONFIG_PATH"].split(":")[0] == str(DATA)


def test_what_the_person_set_comes_first(tmp_path: Path) -> None:
    found = without_gpu("x", tmp_path, {"JUPYTER_PATH": "/mine:", "JUPYTER_CONFIG_PATH": "/mine:/other", "HOME": "/home/x"})
    assert found["JUPYTER_PATH"] == f"/mine:{DATA}"
    assert found["JUPYTER_CONFIG_PATH"].startswith(f"/mine:/other:{DATA}:")
    assert set(found) == {"JUPYTER_PATH", "JUPYTER_CONFIG_PATH"}


def test_containers_that_share_a_home_keep_their_own_reasons(tmp_path: Path) -> None:
    one, other = without_gpu("one", tmp_path, {}), without_gpu("other", tmp_path, {})
    assert [json.loads(page(found).read_text())[OPTION] for found in (one, other)] == ["One.", "Other."]
    written = page(one).stat().st_mtime_ns
    assert without_gpu("one", tmp_path, {}) == one
    assert page(one).stat().st_mtime_ns == written
    assert len(os.listdir(tmp_path)) == 2


def test_where_nothing_can_be_written_the_panel_comes_without_its_reason(tmp_path: Path) -> None:
    (tmp_path / "full").touch()
    found = without_gpu("x", tmp_path / "full", {})
    assert found["JUPYTER_PATH"] == str(DATA)
    assert not page(found).exists()


def test_the_extension_takes_the_place_of_nvdashboards() -> None:
    told = json.loads((EXTENSION / "package.json").read_text())
    assert told["name"] == EXTENSION.name
    assert told["jupyterlab"]["disabledExtensions"] == ["jupyterlab-nvdashboard"]
    server = json.loads((DATA / "jupyter_server_config.d/nvdashboard.json").read_text())
    assert server == {"ServerApp": {"jpserver_extensions": {"jupyterlab_nvdashboard": False}}}
    script = told["jupyterlab"]["_build"]["load"]
    # What lies below `static` is taken to have a hash in its name: browsers would keep an old one for a year.
    assert "static" not in script
    assert f'const NAME = "{told["name"]}"' in (EXTENSION / script).read_text()


@pytest.mark.parametrize("word", ["innerHTML", "insertAdjacentHTML", "outerHTML", "eval("])
def test_the_reason_is_text_and_never_html(word: str) -> None:
    text = (EXTENSION / "panel.js").read_text()
    assert word not in text
    assert f'getOption("{OPTION}")' in text
