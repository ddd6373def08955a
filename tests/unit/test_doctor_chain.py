"""`--why cuda`: the links up to the first broken one, on written-down machines."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from stoker.doctor.chain import State, why_cuda
from stoker.doctor.facts import Driver, Facts, Python, System
from stoker.doctor.facts.driver import Node
from tests.gpu_hosts import gpu, h200, healthy, laptop, with_driver, with_python, with_torch


def test_a_machine_without_a_card_is_told_in_one_line() -> None:
    chain = why_cuda(laptop())
    assert chain.links == ()
    assert chain.broken is None
    assert len(chain.lines()) == 1
    assert "no NVIDIA GPU" in chain.lines()[0]


def test_a_device_node_that_was_left_behind_is_no_card() -> None:
    left = Node(path="/dev/nvidiactl", mode="666", readable=False, error="No such device or address")
    assert why_cuda(replace(laptop(), driver=Driver(nodes=(left, replace(left, path="/dev/nvidia0"))))).links == ()


def test_a_healthy_machine_has_a_whole_chain() -> None:
    chain = why_cuda(healthy())
    assert [link.state for link in chain.links] == [State.OK] * len(chain.links)
    assert "works" in chain.answer
    assert len(chain.links) >= 10


@pytest.mark.parametrize(
    ("facts", "link", "text"),
    [
        (replace(with_torch(healthy(), available=False), driver=Driver(cards=1, card_names=("NVIDIA H200",)), gpus=()), "driver", "driver"),
        (with_python(healthy(), torch=None), "Python and torch", "uv pip install"),
        (
            replace(with_torch(with_driver(healthy(), nodes=()), available=False), gpus=(), system=System(container="docker")),
            "way to the GPU",
            "--gpus",
        ),
        (with_python(healthy(), torch=None, asked="/env"), "Python and torch", "uv pip install"),
        (with_torch(healthy(), version="2.13.0+cpu", cuda=None, architectures=(), available=False), "build of torch", "--reinstall"),
        (
            with_torch(with_driver(healthy(), version="535.129.03", library_version="535.129.03"), available=False),
            "driver for this CUDA",
            "--torch-backend=cu126",
        ),
        (replace(healthy(), gpus=(gpu("Tesla P100-PCIE-16GB", (6, 0)),)), "code for this GPU", "cu126"),
        (
            with_torch(replace(healthy(), variables={"CUDA_VISIBLE_DEVICES": "7"}), available=False, device_count=0),
            "visible devices",
            "CUDA_VISIBLE_DEVICES",
        ),
        (with_torch(healthy(), available=False, device_count=0), "CUDA in torch", "torch.cuda.init()"),
    ],
)
def test_the_first_broken_link_is_named_with_its_fix(facts: Facts, link: str, text: str) -> None:
    chain = why_cuda(facts)
    assert chain.broken is not None
    assert chain.broken.name == link
    position = chain.links.index(chain.broken)
    assert all(one.state in (State.OK, State.UNKNOWN) for one in chain.links[:position])
    assert all(one.state is State.NOT_REACHED for one in chain.links[position + 1 :])
    shown = "\n".join(chain.lines())
    assert text in shown
    assert "BROKEN" in shown
    assert "fix:" in shown
    assert chain.broken.finding is not None
    assert chain.broken.finding.fix


def test_a_warning_does_not_break_the_chain() -> None:
    chain = why_cuda(with_torch(with_driver(healthy(), version="550.54.14", library_version="550.54.14"), version="2.8.0+cu128", cuda="12.8"))
    assert chain.broken is None


def test_what_is_not_known_is_said() -> None:
    chain = why_cuda(replace(healthy(), python=Python()))
    assert chain.broken is None
    assert "Python and torch" in [link.name for link in chain.links if link.state is State.UNKNOWN]
    assert "not known: Python and torch" in chain.answer


def test_a_machine_for_containers_is_whole_as_far_as_torch() -> None:
    chain = why_cuda(with_python(healthy(), torch=None, active=False))
    assert chain.broken is None
    assert "no torch in /env/bin/python; --python names the one that trains" in chain.answer


def test_a_card_for_a_virtual_machine_is_nothing_to_ask_about() -> None:
    chain = why_cuda(replace(healthy(), driver=Driver(cards=1, card_modules=("vfio-pci",)), gpus=()))
    assert chain.links == ()
    assert "vfio-pci" in chain.answer


def test_what_does_not_keep_torch_from_cuda_does_not_break_the_chain() -> None:
    lost = replace(healthy(), gpus=(h200(0), replace(h200(1), lost=True, lost_text="GPU is lost")))
    assert why_cuda(lost).broken is None
    assert why_cuda(with_torch(lost, available=False, device_count=0)).broken is not None
    # is_available() is True there, and every operation fails.
    assert why_cuda(replace(healthy(), gpus=(gpu("Tesla P100-PCIE-16GB", (6, 0)),))).broken is not None


def test_it_can_be_written_as_json() -> None:
    value = json.loads(json.dumps(why_cuda(with_torch(healthy(), available=False, device_count=0)).as_dict()))
    assert value["broken"] == "CUDA in torch"
    assert value["links"][-1]["id"] == "cuda-unavailable-unexplained"
