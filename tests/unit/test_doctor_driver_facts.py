"""The doctor's driver section read from machines that are written down as files, with programs that fail, hang or are none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.doctor.facts import Facts
from stoker.doctor.facts import driver as driver_facts
from stoker.doctor.facts.driver import gather_driver
from stoker.doctor.facts.kernel_log import read_kernel_log
from stoker.doctor.facts.libcuda import as_loaded, find_libraries
from stoker.doctor.facts.nvml import Answer
from tests.fakes import smi
from tests.fakes.machines import ELF, written
from tests.unit.test_doctor_driver import XID_31, XID_79, found, only

PCI = "sys/bus/pci/devices/0000:18:00.0"
CARD: dict[str, str | bytes] = {f"{PCI}/vendor": "0x10de\n", f"{PCI}/class": "0x030200\n", f"{PCI}/device": "0x2335\n"}


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No nvidia-smi, no NVML and no library path but a test's own."""
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    monkeypatch.setattr(driver_facts, "read_nvml", lambda brief=False: Answer(start={"code": 12}, error="NVML Shared Library Not Found"))


def test_an_empty_machine(tmp_path: Path) -> None:
    empty = gather_driver(tmp_path / "nothing")
    assert (empty.version, empty.cards, empty.nodes, empty.smi_found, empty.nvml_code) == (None, 0, (), False, None)
    assert found(Facts(driver=empty)) == {}


def test_a_card_without_a_driver_after_a_kernel_update(tmp_path: Path) -> None:
    root = written(
        tmp_path,
        CARD
        | {
            "proc/sys/kernel/osrelease": "6.8.0-87-generic\n",
            "lib/modules/6.8.0-45-generic/modules.dep": "updates/dkms/nvidia.ko.zst: kernel/x.ko\nupdates/dkms/nvidia-drm.ko:\n",
            "lib/modules/6.8.0-87-generic/modules.dep": "kernel/drivers/net/x.ko:\n",
            "var/lib/dpkg/info/nvidia-driver-580.list": "",
            "var/lib/dkms/nvidia/580.95.05/source/x": "",
            "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": b"\x06\x00\x00\x00\x01",
            "usr/share/misc/pci.ids": "10dd  X\n10de  NVIDIA Corporation\n\t2335  GH100 [H200 SXM 141GB]\n\t\t10de 1  sub\n10df  Y\n\t2335  wrong\n",
        },
    )
    facts = gather_driver(root)
    assert facts.module_other_kernels == ("6.8.0-45-generic",)
    assert facts.module_files == ()
    assert facts.packages == ("nvidia-driver-580", "dkms nvidia/580.95.05")
    assert facts.card_names == ("0000:18:00.0 GH100 [H200 SXM 141GB]",)
    assert facts.secure_boot is True
    name, finding = only(Facts(driver=facts))
    assert (name, "6.8.0-45-generic" in finding.what) == ("driver-missing", True)


def test_nouveau_holds_the_card(tmp_path: Path) -> None:
    root = written(tmp_path, CARD | {"sys/bus/pci/drivers/nouveau/bind": ""})
    (root / PCI / "driver").symlink_to(root / "sys/bus/pci/drivers/nouveau")
    facts = gather_driver(root)
    assert (facts.nouveau, facts.card_modules) == (True, ("nouveau",))


def test_a_loaded_driver_and_its_log(tmp_path: Path) -> None:
    root = written(
        tmp_path,
        CARD
        | {
            "sys/module/nvidia/version": "580.95.05\n",
            "sys/module/nvidia_uvm/x": "",
            "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n",
            "dev/nvidia0": "",
            "dev/nvidiactl": "",
            "dev/nvidia-caps/nvidia-cap1": "",
            "dev/kmsg": f"6,1,123456000,-;{XID_79.partition('] ')[2]}\n4,2,5,-;usb 1-1: new device\n6,3,6,-;nvidia_drm: loaded\n",
            "usr/lib/x86_64-linux-gnu/libcuda.so.580.95.05": ELF,
            "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.105.08": ELF,
        },
    )
    (root / "usr/lib/x86_64-linux-gnu/libcuda.so.1").symlink_to("libcuda.so.580.95.05")
    (root / "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.580.105.08")
    smi.program(tmp_path / "programs", "nvidia-smi", smi.HEALTHY)
    facts = gather_driver(root)
    assert (facts.version, facts.library_version, facts.open_module, facts.uvm_loaded) == ("580.95.05", "580.105.08", True, True)
    assert (facts.smi_found, facts.smi_code, facts.cuda_shown) == (True, 0, "13.0")
    assert [node.path for node in facts.nodes] == ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-caps/nvidia-cap1"]
    assert facts.kernel_log == (f"[123.456000] {XID_79.partition('] ')[2]}",)
    assert facts.kernel_log_source == "/dev/kmsg"


@pytest.mark.parametrize(
    ("out", "code", "err"),
    [
        (smi.NO_DRIVER, 9, ""),
        (smi.MISMATCH, 18, ""),
        ("", 127, "nvidia-smi: error while loading shared libraries: libnvidia-ml.so.1"),
        ("\x07\x1b[0m�\0", 1, ""),
    ],
)
def test_smi_that_fails_gives_its_words(tmp_path: Path, out: str, code: int, err: str) -> None:
    smi.program(tmp_path / "programs", "nvidia-smi", out.replace("\0", ""), code=code, err=err)
    facts = gather_driver(tmp_path)
    assert facts.smi_code == code
    assert facts.version is None
    assert (out + err)[:20].isprintable() is False or (out + err)[:20] in facts.smi_text
    assert "\x1b" not in facts.smi_text


def test_a_program_that_is_none(tmp_path: Path) -> None:
    path = smi.program(tmp_path / "programs", "nvidia-smi")
    path.write_bytes(b"\x7fELF garbage")
    facts = gather_driver(tmp_path)
    assert (facts.smi_found, facts.smi_code) == (True, None)
    assert found(Facts(driver=replace(facts, version="580.95.05", cards=1))) == {}  # it did not hang


def test_smi_that_hangs_is_left_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_facts, "_SMI_LIMIT_S", 0.3)
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:/bin:/usr/bin")
    smi.program(tmp_path / "programs", "nvidia-smi", "half an answer", hangs=True)
    facts = gather_driver(written(tmp_path, {"sys/module/nvidia/version": "580.95.05"}))
    assert facts.smi_code is None
    assert "no answer within 0.3 s" in facts.smi_text
    assert "half an answer" in facts.smi_text
    assert "smi-hangs" in found(Facts(driver=facts))


@pytest.mark.parametrize(
    "said", [{}, {"code": "x"}, {"code": 0, "driver_version": "??", "cuda": -77}, {"code": 0, "driver_version": 5, "cuda": "13000"}]
)
def test_garbage_of_nvml_becomes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: dict[str, Any]) -> None:
    monkeypatch.setattr(driver_facts, "read_nvml", lambda brief=False: Answer(start=said, error=None))
    facts = gather_driver(written(tmp_path, CARD))
    assert (facts.version, facts.cuda_shown) == (None, None)


def test_libraries_in_the_order_of_the_loader(tmp_path: Path) -> None:
    root = written(
        tmp_path,
        {
            "etc/ld.so.conf.d/000_cuda.conf": "/usr/local/cuda/compat\n# comment\n",
            "usr/local/cuda/compat/libcuda.so.590.44.01": ELF,
            "usr/lib64/libcuda.so.580.95.05": ELF,
            "usr/lib/libcuda.so.1": b"\x7fELF\x01",  # for 32 bits
            "usr/lib64/libnvidia-ml.so.1": ELF,
        },
    )
    (root / "usr/local/cuda/compat/libcuda.so.1").symlink_to("libcuda.so.590.44.01")
    (root / "usr/lib64/libcuda.so.1").symlink_to("libcuda.so.580.95.05")
    (root / "lib64").symlink_to("usr/lib64")
    libraries = find_libraries(root, "")
    assert [(library.path, library.version, library.first) for library in libraries] == [
        ("/usr/lib64/libnvidia-ml.so.1", None, True),
        ("/usr/local/cuda/compat/libcuda.so.590.44.01", "590.44.01", True),
        ("/usr/lib64/libcuda.so.580.95.05", "580.95.05", False),
    ]
    (mine, *_) = [library for library in find_libraries(root, f"{root / 'usr/lib64'}:relative") if "libcuda" in library.path]
    assert mine.path == "/usr/lib64/libcuda.so.580.95.05"
    corrected = as_loaded(libraries, ["/usr/lib64/libcuda.so.580.95.05"])
    assert [library.path for library in corrected if library.first] == ["/usr/lib64/libnvidia-ml.so.1", "/usr/lib64/libcuda.so.580.95.05"]


def test_a_log_of_this_start_only(tmp_path: Path) -> None:
    written(tmp_path, {"var/log/kern.log": f"a kernel: {XID_79}\nb kernel: Linux version 6.8.0\nc kernel: {XID_31}\n"})
    lines, source = read_kernel_log(tmp_path)
    assert (len(lines), source) == (1, "/var/log/kern.log")
    assert ": 31," in lines[0]
    assert read_kernel_log(tmp_path / "nothing") == ((), None)


@pytest.mark.parametrize(
    "line", ["Loading of module with unavailable key is rejected", "modprobe: ERROR: could not insert 'nvidia': Key was rejected by service"]
)
def test_a_refused_signature_is_kept(tmp_path: Path, line: str) -> None:
    written(tmp_path, {"dev/kmsg": f"[8.1] {line}\n[8.2] usb 1-1: new device\n"})
    assert read_kernel_log(tmp_path)[0] == (f"[8.1] {line}",)


def test_a_flood_does_not_hide_an_xid(tmp_path: Path) -> None:
    written(tmp_path, {"dev/kmsg": f"{XID_79}\n" + "NVRM: something\n" * 5000})
    lines, _ = read_kernel_log(tmp_path)
    assert XID_79 in lines
    assert len(lines) <= 61
