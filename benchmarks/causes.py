"""Who names the cause: four tools in the same ten broken environments, and in an intact one.

The tools: `python -m torch.utils.collect_env`, `nvidia-smi`, `accelerate env`, `stoker doctor`. Each environment is made for real in a temporary
folder, proven to be broken by its symptom, looked at by all four, and removed; broken/verdict.py has the rule, the same for all. It needs uv, and for
seven of the ten root, podman and Debian's non-free packages. Goals: the doctor names all ten, reports no error beside the cause, and finds nothing
wrong in the intact one.
--page FILE: also write docs/side-by-side.md. --only A,B: these environments alone. --quick: only those that need neither root nor podman.
"""

from __future__ import annotations

import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from broken.debian import NotMade
from broken.environments import CONTROL, ENVIRONMENTS, Broken, Drivers, Site
from broken.place import REPOSITORY, Place
from broken.verdict import Grade, deciding, judge
from claims import Benchmark, benchmark

from stoker.files import write_text_atomically

DOCTOR = "stoker doctor"
TOOLS = ("torch.utils.collect_env", "nvidia-smi", "accelerate env", DOCTOR)
OF_THE_MACHINE = ("running-as-root", "load-from-others")
"""Findings about whoever runs this benchmark, and about what else runs meanwhile: reported, and no false alarms."""


def main() -> None:
    """Make each environment, ask each tool, judge, claim."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that containers and folders are removed then, too
    page_path, only = option("--page"), option("--only")
    bench = benchmark(__doc__)
    chosen = [one for one in choose(only) if one.quick or not bench.quick]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        drivers = Drivers(Path(name) / "drivers")
        for number, broken in enumerate(chosen):
            try:
                found[broken.name] = examine(broken, Site(folder=folder(Path(name), number), drivers=drivers))
            except NotMade as reason:
                found[broken.name] = {"not_made": scrub(str(reason), {})}
            finally:
                shutil.rmtree(Path(name) / f"e{number}", ignore_errors=True)  # where uv cannot link, each is 5 GB
            print(told(broken, found[broken.name]), flush=True)
    bench.facts["environments"] = found
    print("\n" + table(found))
    claims(bench, found)
    if page_path is not None:
        write_text_atomically(Path(page_path), page(bench.record()))
    bench.finish()


def option(name: str) -> str | None:
    """Take an option of this script's own, and its value, off the command line."""
    if name not in sys.argv[:-1]:
        return None
    at = sys.argv.index(name)
    value = sys.argv[at + 1]
    del sys.argv[at : at + 2]
    return value


def choose(only: str | None) -> list[Broken]:
    """Return the environments of these names, with commas between; None: all, and the intact one last."""
    every = [*ENVIRONMENTS, CONTROL]
    names = [one.name for one in every]
    if unknown := set(only.split(",")) - set(names) if only else set():
        raise SystemExit(f"error: there is no environment {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return [one for one in every if only is None or one.name in only.split(",")]


def folder(parent: Path, number: int) -> Path:
    """Make the environment's folder. Its name gives nothing away: paths stand in what the tools print, and are judged with it."""
    path = parent / f"e{number}"
    path.mkdir()
    return path


def examine(broken: Broken, site: Site) -> dict[str, Any]:
    """Make one environment, see that it is broken, ask the four tools, and remove it. Raises NotMade."""
    began = time.perf_counter()
    place = broken.make(site)
    made_s = time.perf_counter() - began
    hidden = {str(site.folder): "", str(REPOSITORY): "/stoker", str(Path(sys.base_prefix).resolve()): "/python"}
    try:
        python = str(site.environment / "bin/python")
        symptom = seen(place, python, broken, hidden)
        commands = {
            TOOLS[0]: [python, "-m", "torch.utils.collect_env"],
            TOOLS[1]: ["nvidia-smi"],
            TOOLS[2]: [str(site.environment / "bin/accelerate"), "env"],
            DOCTOR: [sys.executable, "-m", "stoker", "doctor"],
        }
        tools = {tool: ask(place, command, broken, hidden) for tool, command in commands.items()}
        packages = versions(place, python)
    finally:
        place.close()
    return {
        "title": broken.title,
        "where": broken.where,
        "made_s": round(made_s, 1),
        "symptom": symptom,
        "packages": packages,
        "tools": tools,
        "beside": [finding for finding in tools[DOCTOR].pop("findings") if finding[1] not in broken.finding],
    }


def seen(place: Place, python: str, broken: Broken, hidden: dict[str, str]) -> str:
    """Return the words that prove that the environment is broken. Raises NotMade where they do not come."""
    done = place.run([python, "-c", broken.symptom[0]])
    line = deciding(done.out + "\n" + done.err, broken.symptom[1])
    if line is None:
        last = (done.err or done.out).strip().splitlines()[-1:]
        raise NotMade(f"the environment is not broken as it should be: expected {broken.symptom[1]!r}, seen {last}")
    return scrub(line, hidden)


def ask(place: Place, command: list[str], broken: Broken, hidden: dict[str, str]) -> dict[str, Any]:
    """Run one tool and judge it."""
    began = time.perf_counter()
    done = place.run(command)
    seconds = time.perf_counter() - began
    verdict = judge(done.out + "\n" + done.err, done.code, broken.rule)
    found: dict[str, Any] = {"grade": verdict.grade.value, "line": scrub(verdict.line, hidden), "code": done.code, "seconds": round(seconds, 1)}
    if "doctor" in command:
        if done.code not in (0, 1, 2):  # it failed itself: what it says then is not about the environment
            found.update(grade=Grade.DIES.value, line=scrub(done.err.strip().splitlines()[0], hidden) if done.err.strip() else "")
        found["findings"] = re.findall(r"^(error|warning|note):.*\[([a-z0-9-]+)\]\s*$", done.out, re.MULTILINE)
    return found


def versions(place: Place, python: str) -> dict[str, str]:
    """Return the versions of what the tools come from, as installed there."""
    names = ["torch", "torchvision", "accelerate"]
    line = f"import importlib.metadata as m; [print(d.metadata['Name'], d.version) for d in m.distributions() if d.metadata['Name'] in {names}]"
    return dict(sorted(line.split() for line in place.run([python, "-c", line]).out.splitlines()))


def scrub(text: str, hidden: dict[str, str]) -> str:
    """Take this machine's own paths out of a text."""
    for path, instead in hidden.items():
        text = text.replace(path, instead)
    return re.sub(r"/tmp/bench-\w+", "", text)


def told(broken: Broken, found: dict[str, Any]) -> str:
    """Return one environment's results in lines."""
    if "not_made" in found:
        return f"{broken.name}: not made: {found['not_made']}"
    lines = [f"{broken.name}: made in {found['made_s']:g} s; {found['symptom']}"]
    for tool in TOOLS:
        result = found["tools"][tool]
        lines.append(f"  {tool:24} {result['grade']:7} {result['seconds']:5.1f} s  {result['line']}")
    beside = ", ".join(f"{severity} {name}" for severity, name in found["beside"])
    return "\n".join([*lines, *([f"  beside it the doctor said: {beside}"] if beside else [])])


def table(found: dict[str, Any]) -> str:
    """Return the table for a terminal."""
    rows = [("", *TOOLS), *((name, *(result["tools"][tool]["grade"] for tool in TOOLS)) for name, result in broken_ones(found).items())]
    rows.append(("names the cause", *(str(count(found, tool, Grade.NAMES)) for tool in TOOLS)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def broken_ones(found: dict[str, Any]) -> dict[str, Any]:
    """Return the environments that were made and are broken."""
    return {name: result for name, result in found.items() if name != CONTROL.name and "not_made" not in result}


def count(found: dict[str, Any], tool: str, grade: Grade) -> int:
    """Return in how many environments a tool earned a grade."""
    return sum(result["tools"][tool]["grade"] == grade.value for result in broken_ones(found).values())


def claims(bench: Benchmark, found: dict[str, Any]) -> None:
    """Claim what was looked at; of fewer environments fewer are claimed, and named so."""
    made = broken_ones(found)
    missing = [name for name, result in found.items() if "not_made" in result]
    if missing:
        print(f"not made here, and not claimed: {', '.join(missing)}")
    if made:
        bench.claim("causes_named", count(found, DOCTOR, Grade.NAMES), f"of-{len(made)}", at_least=len(made))
        errors = [name for result in made.values() for severity, name in alarms(result) if severity == "error"]
        bench.claim("errors_beside_the_cause", len(errors), "findings", at_most=0)
    control = found.get(CONTROL.name, {})
    if "tools" in control:
        bench.claim("findings_where_nothing_is_wrong", len(alarms(control)), "findings", at_most=0)


def alarms(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the doctor's findings beside the cause, without those of the machine that the benchmark runs on."""
    return [(severity, name) for severity, name in result["beside"] if name not in OF_THE_MACHINE]


def page(record: dict[str, Any]) -> str:
    """Return docs/side-by-side.md for a record of this benchmark."""
    found = record["facts"]["environments"]
    made = broken_ones(found)
    lines = [*_PAGE_HEAD, "", "| what is wrong | " + " | ".join(f"`{tool}`" for tool in TOOLS) + " |", "|---|" + "---|" * len(TOOLS)]
    for result in made.values():
        lines.append(f"| {result['title']} | " + " | ".join(_cell(result["tools"][tool]["grade"]) for tool in TOOLS) + " |")
    lines.append(f"| **names the cause, of {len(made)}** | " + " | ".join(f"**{count(found, tool, Grade.NAMES)}**" for tool in TOOLS) + " |")
    lines += ["", *_PAGE_RULE, "", "## The words that decided"]
    for name, result in made.items():
        lines += ["", f"### {result['title']}", "", f"`{name}`: {result['where']}. What a training sees:", "", "```", result["symptom"], "```", ""]
        lines += [f"- `{tool}`: {_told(tool, result['tools'][tool])}" for tool in TOOLS]
        if result["beside"]:
            lines.append("- beside it the doctor also said: " + ", ".join(f"`{finding}` ({severity})" for severity, finding in result["beside"]))
    return "\n".join([*lines, "", *_circumstances(record), ""])


_PAGE_HEAD = [
    "# Side by side: who names the cause",
    "",
    "Made by `./dev bench causes --page docs/side-by-side.md --json benchmarks/results/causes.json`. Ten broken environments are made for real,",
    "proven to be broken, and looked at by the same four tools, with the same variables, in the same folder, on the same machine or in the same",
    "container.",
]
_PAGE_RULE = [
    "**names**: a sentence of the output says what is wrong. *shows*: a value in the output gives it away to somebody who knows what to look for.",
    "silent: neither. dies: neither, and the tool itself ended with a traceback. absent: there is no such program in that environment.",
    "",
    "The rule is one pair of regular expressions for each environment, the same for all tools; they are in `benchmarks/broken/environments.py`, with",
    "how each environment is made. A warning that PyTorch prints while one of the tools asks it counts for that tool.",
    "",
    "Two expressions were widened after the doctor's own wording had been seen: `shm-64mb` by \"needs\" (before, the doctor's sentence counted as",
    '*shows*) and `few-cores` by "32 threads where 1 core". The other tools say nothing that either form meets.',
    "",
    "The broken virtual environment is activated (`VIRTUAL_ENV`, `PATH`). The doctor runs on a Python of its own and examines that one; the other",
    "two that are written in Python have to run in it.",
    "",
    "The other three are not made to diagnose: `collect_env` and `accelerate env` collect versions for a bug report, `nvidia-smi` shows the driver",
    "and the GPU. The table says what somebody finds out who runs only that.",
]


def _cell(grade: str) -> str:
    return {"names": "**names**", "shows": "*shows*"}.get(grade, grade)


def _told(tool: str, result: dict[str, Any]) -> str:
    """Return a grade with its words, and with how the tool ended where that was not well (for the doctor 1 and 2 mean warnings and errors)."""
    words = f": `{result['line'].replace('`', chr(39))}`" if result["line"] else ""
    failed = tool != DOCTOR and result["code"] != 0 and result["grade"] != Grade.ABSENT.value
    return _cell(result["grade"]) + words + (f" (exit status {result['code']})" if failed else "")


def _circumstances(record: dict[str, Any]) -> list[str]:
    """Return what the results were got on, what was laid over, and the intact environment."""
    found, lines = record["facts"]["environments"], ["## Under what circumstances", ""]
    control = found.get(CONTROL.name, {})
    if "tools" in control:
        beside = ", ".join(f"`{finding}` ({severity})" for severity, finding in control["beside"])
        lines += [
            f"In an intact environment (`{CONTROL.name}`: {control['where']}) the doctor finds " + (f"{beside}." if beside else "nothing wrong."),
            "",
        ]
    lines += [
        f"Left out of the count of false alarms, and listed above all the same: {' and '.join(f'`{name}`' for name in OF_THE_MACHINE)}. They are",
        "about who runs this benchmark, and about what else runs on the machine meanwhile.",
        "",
    ]
    packages = sorted({f"{name} {version}" for result in broken_ones(found).values() for name, version in result["packages"].items()})
    lines += [
        f"{record['date'][:10]}, Linux on {record['hardware']['architecture']}, Python {record['versions']['python']}, "
        f"stoker {record['versions']['stoker']}; {', '.join(packages)}.",
        "",
        "The machine has no GPU. Where an environment needs one, the kernel's files (`/proc/driver/nvidia`, `/sys`), the device nodes and the",
        "driver's libraries of a machine with one H100 are laid over this machine's own in a mount namespace, so that every tool finds them in",
        "their usual places. libcuda is NVIDIA's own (of Debian's non-free packages), and so is `nvidia-smi` where it has an error to report;",
        "NVML is a fake, and where all is well with the driver `nvidia-smi` is a stand-in that prints the table of such a machine. Where kernel",
        "module and libraries differ, a stand-in for libcuda returns the code 803 that the real one returns there. With `CUDA_VISIBLE_DEVICES=1`",
        "the real libcuda says that there is no device, as it does on a real machine with one GPU; here it would say so without the variable,",
        "too. No program runs on a GPU in any of this.",
    ]
    missing = {name: result["not_made"] for name, result in found.items() if "not_made" in result}
    return [*lines, *(f"\nNot made here: `{name}`: {reason}" for name, reason in missing.items())]


if __name__ == "__main__":
    main()
