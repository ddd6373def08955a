"""What torch.compile gives the two workloads here, from a child process with a time limit."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stoker import shell
from stoker.bench.compute import POOL_TITLE, RESNET_TITLE, pool_rated, resnet_rated
from stoker.bench.plan import Plan
from stoker.bench.readings import Reading
from stoker.measure import timing

_LEAST_S = 8.0
"""Importing torch and its compiler alone takes as long."""
_TITLES = {"pool": POOL_TITLE, "resnet50": RESNET_TITLE}


def compiled(device: torch.device, plan: Plan, eager: list[Reading], limit_s: float) -> list[Reading]:
    """Return the compiled form of the fastest eager variant of each workload, or why there is none within `limit_s` seconds."""
    best = {workload: _fastest(eager, workload) for workload in _TITLES}
    wanted = {workload: reading for workload, reading in best.items() if reading is not None}
    empty = {workload: _empty(workload, reading) for workload, reading in wanted.items()}
    if reason := _reason(device, plan, limit_s):
        return [replace(reading, skipped=reason) for reading in empty.values()]
    tasks = [_task(workload, reading) for workload, reading in wanted.items() if workload != "resnet50" or plan.compile_resnet]
    answers, why = _asked(device, limit_s, tasks)
    if not plan.compile_resnet:
        answers["resnet50"] = {}
    return [_reading(reading, answers.get(workload), why) for workload, reading in empty.items()]


def compiler_missing(device_kind: str) -> str:
    """Return what torch.compile lacks here; nothing when it can work."""
    if device_kind == "cuda" and importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    language, variable, names = ("C++", "CXX", ("g++", "clang++", "c++")) if device_kind == "cpu" else ("C", "CC", ("gcc", "clang", "cc"))
    named = os.environ.get(variable)
    found = any(shutil.which(name) for name in ((named, *names) if named else names))
    return "" if found else f"there is no {language} compiler"


def _reason(device: torch.device, plan: Plan, limit_s: float) -> str:
    if plan.quick:
        return "not tried with --quick"
    return compiler_missing(device.type) or ("" if limit_s >= _LEAST_S else "no time was left for compiling")


def _asked(device: torch.device, limit_s: float, tasks: list[dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], str]:
    """Run the child; return its answers by workload, and why one may be missing."""
    with tempfile.TemporaryDirectory(prefix="stoker-verify-") as folder:
        out = Path(folder, "answers.jsonl")
        order = json.dumps({"device": str(device), "out": str(out), "tasks": tasks})
        outcome = shell.run([sys.executable, "-m", "stoker.bench.compiling", order], timeout_s=limit_s)
        lines = out.read_text().splitlines() if out.exists() else []
    answers = {}
    for line in lines:
        try:
            answer = json.loads(line)
        except ValueError:  # cut off by the time limit
            continue
        answers[answer["workload"]] = answer
    if outcome.code is None:
        return answers, f"compiling took longer than the {limit_s:.0f} s that were left for it"
    if outcome.code < 0:
        return answers, f"compiling died with signal {-outcome.code}"
    said = [line for line in outcome.err.strip().splitlines() if "Error" in line and not line.startswith(" ")]
    return answers, f"compiling failed: {(said or ['it said nothing'])[-1][:200]}"


def _reading(empty: Reading, answer: dict[str, Any] | None, why: str) -> Reading:
    if answer is None:
        return replace(empty, skipped=why)
    if not answer:
        return replace(empty, skipped="compiling ResNet-50 for a CPU takes longer than this check may")
    samples = {name: [float(value) for value in answer[name]] for name in ("eager", "compiled")}
    times = {name: timing(values, values) for name, values in samples.items()}
    facts = empty.facts | {"ratio": round(times["eager"].median_s / times["compiled"].median_s, 3), "compile_s": round(float(answer["compile_s"]), 1)}
    batch, precision = int(facts["batch"]), str(facts["precision"])
    filled = replace(empty, facts=facts)
    if empty.name.startswith("compute.pool."):
        return pool_rated(filled, times["compiled"], batch, precision)
    return resnet_rated(filled, times["compiled"], batch)


def _fastest(eager: list[Reading], workload: str) -> Reading | None:
    found = [reading for reading in eager if reading.name.startswith(f"compute.{workload}.") and reading.value is not None]
    return max(found, key=lambda reading: float(reading.facts["images_per_s"]), default=None)


def _empty(workload: str, reading: Reading) -> Reading:
    facts = {key: reading.facts[key] for key in ("batch", "precision", "layout")}
    title = f"{_TITLES[workload]}, {facts['precision']}, {facts['layout']}, compiled"
    return Reading(name=f"{reading.name}.compiled", title=title, unit=reading.unit, facts=facts | {"compiled": True})


def _task(workload: str, reading: Reading) -> dict[str, Any]:
    return {"workload": workload, **{key: reading.facts[key] for key in ("batch", "precision", "layout")}}
