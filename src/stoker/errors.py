"""Every way in which Stoker refuses: exit code, slug, message and hint.

An error says what happened and where (`message`) and what to do about it (`hint`). The class carries the exit code, the
slug by which scripts and documentation know it, and (its docstring) the longer advice that `docs/errors.md` prints.
"""

from __future__ import annotations


class StokerError(Exception):
    """A refusal that is no bug: the input, the machine or the moment does not allow what was asked."""

    exit_code = 1
    slug = "refused"

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


# --- what was asked -------------------------------------------------------------------------------------------------


class UsageError(StokerError):
    """The command line does not fit together: a flag without its value, or two flags that exclude each other."""

    exit_code = 2
    slug = "usage"


class UnknownName(StokerError):
    """A recipe, a configuration key or a model has a name that Stoker does not know. The nearest known one is named."""

    exit_code = 20
    slug = "unknown-name"


class BadValue(StokerError):
    """A configuration value has the wrong type or lies outside its range."""

    exit_code = 21
    slug = "bad-value"


# --- the environment ------------------------------------------------------------------------------------------------


class SetupError(StokerError):
    """The environment `.venv` could not be made. What was there before is untouched; the same command can be run again."""

    exit_code = 3
    slug = "setup-failed"


class DriverTooOld(StokerError):
    """No stack in `locks/` runs on this NVIDIA driver. The message names the driver that each stack needs."""

    exit_code = 4
    slug = "driver-too-old"


class MissingExtra(StokerError):
    """A package that this command needs is an optional extra and is not installed."""

    exit_code = 5
    slug = "missing-extra"


class NoGpu(StokerError):
    """More GPUs were asked for than PyTorch can see."""

    exit_code = 6
    slug = "no-gpu"


class NoStackFits(StokerError):
    """What was asked for was never built, or nothing that was built runs on this driver, GPU or Python. The message says what does exist."""

    exit_code = 7
    slug = "no-stack-fits"


# --- data -----------------------------------------------------------------------------------------------------------


class DataMissing(StokerError):
    """There is nothing at the data path, or it cannot be read."""

    exit_code = 10
    slug = "data-missing"


class DataInvalid(StokerError):
    """The data is there but is no image classification data set: no classes, an empty class, a label out of range, ..."""

    exit_code = 11
    slug = "data-invalid"


class BrokenImage(StokerError):
    """An image file cannot be decoded. `--skip-broken` leaves such files out and counts them."""

    exit_code = 12
    slug = "broken-image"


class DownloadFailed(StokerError):
    """A data set could not be downloaded whole. Nothing half-written is left to be mistaken for it."""

    exit_code = 13
    slug = "download-failed"


class UnsafeArchive(StokerError):
    """An archive holds members that would leave its folder, links, devices, or far more bytes than it says."""

    exit_code = 14
    slug = "unsafe-archive"


# --- training -------------------------------------------------------------------------------------------------------


class ImageSizeUnfit(StokerError):
    """The images are too small (or of the wrong shape) for the model."""

    exit_code = 22
    slug = "image-size-unfit"


class DeviceMismatch(StokerError):
    """The model and the data are on different devices."""

    exit_code = 23
    slug = "device-mismatch"


class OutOfMemory(StokerError):
    """The device ran out of memory. The message names the batch size that would fit."""

    exit_code = 24
    slug = "out-of-memory"


class LossNotFinite(StokerError):
    """The loss became NaN or infinite. The message names the step, the learning rate and the last good checkpoint."""

    exit_code = 25
    slug = "loss-not-finite"


# --- runs -----------------------------------------------------------------------------------------------------------


class RunFolderUnwritable(StokerError):
    """The run folder cannot be written to: read-only, or another user's."""

    exit_code = 30
    slug = "run-folder-unwritable"


class RunBusy(StokerError):
    """Another training writes into this run folder at this moment."""

    exit_code = 31
    slug = "run-busy"


class CheckpointUnfit(StokerError):
    """The checkpoint belongs to another model or configuration."""

    exit_code = 32
    slug = "checkpoint-unfit"


class CheckpointBroken(StokerError):
    """No checkpoint of this run can be read."""

    exit_code = 33
    slug = "checkpoint-broken"


class DiskFull(StokerError):
    """The disk filled up while a file was written. The file that was there before is untouched."""

    exit_code = 34
    slug = "disk-full"


class RunMissing(StokerError):
    """There is no run of that name, or the name fits several."""

    exit_code = 35
    slug = "run-missing"


class RepeatRefused(StokerError):
    """The run cannot be repeated here as it was: the code, the packages or the data differ. The message shows how."""

    exit_code = 36
    slug = "repeat-refused"


class RunBroken(StokerError):
    """The record of a run cannot be read."""

    exit_code = 37
    slug = "run-broken"


class ExportDiffers(StokerError):
    """The exported model gives other numbers than the model it was made from."""

    exit_code = 40
    slug = "export-differs"


class ExportFailed(StokerError):
    """torch's ONNX exporter cannot express this model, or not in this opset."""

    exit_code = 41
    slug = "export-failed"


# --- looking at a machine -------------------------------------------------------------------------------------------


class ReportBroken(StokerError):
    """A file that Stoker wrote earlier (the facts of a machine, a verification, a diagnosis) is not there or cannot be read."""

    exit_code = 50
    slug = "report-broken"


class ProcessMissing(StokerError):
    """There is no process with this number, or it may not be looked at."""

    exit_code = 51
    slug = "process-missing"


class NumbersDiffer(StokerError):
    """`stoker boost --verify`: a boosted run gave other losses or weights than a plain one, or two plain runs already differ."""

    exit_code = 52
    slug = "numbers-differ"


class ProgramFailed(StokerError):
    """A program that was to be compared ended badly, or did nothing that can be compared. Its last lines are shown."""

    exit_code = 53
    slug = "program-failed"


class StackUnfit(StokerError):
    """No stack of this image runs on this machine's driver and GPUs. The message names the driver that each one needs."""

    exit_code = 54
    slug = "stack-unfit"


class ServiceUnfit(StokerError):
    """JupyterLab or sshd of an image cannot start: no such variant, no key that may log in, an unreadable certificate, started as root, ..."""

    exit_code = 55
    slug = "service-unfit"


# --- images ---------------------------------------------------------------------------------------------------------


class SpecificationBroken(StokerError):
    """`stoker.toml` is not there, is no TOML, or its table `[image]` says something that cannot be. The message names file and line."""

    exit_code = 60
    slug = "image-spec-broken"


class LockMissing(StokerError):
    """There is no `stoker.lock` beside `stoker.toml`: `stoker image lock` writes it."""

    exit_code = 61
    slug = "lock-missing"


class LockOutdated(StokerError):
    """`stoker.lock` was made from another `stoker.toml`, or by another Stoker, than the one at hand: `stoker image lock` writes it anew."""

    exit_code = 62
    slug = "lock-outdated"


class LockBroken(StokerError):
    """`stoker.lock` cannot be read, or was changed by hand into something that cannot be. The message names the place."""

    exit_code = 63
    slug = "lock-broken"


class PackageGone(StokerError):
    """No index or mirror that can be reached has a file of the lock any more (or has never had the package that was asked for)."""

    exit_code = 64
    slug = "package-gone"


class HashMismatch(StokerError):
    """A file has other bytes than the lock says: it was published again under the same name, or changed on its way here. It was not used."""

    exit_code = 65
    slug = "hash-mismatch"


class BuildFailed(StokerError):
    """A program that resolves or builds (uv, apt, mmdebstrap, the image's own compiler) said no. Its own last lines are in the message."""

    exit_code = 66
    slug = "build-failed"


class ImageBroken(StokerError):
    """An image or layout is not whole, or the check found that it is not what its lock says."""

    exit_code = 67
    slug = "image-broken"


class ScanIncomplete(StokerError):
    """Something could not be looked up, so that "nothing was found" would be no answer. What could be looked up is shown."""

    exit_code = 68
    slug = "scan-incomplete"


class VulnerabilitiesFound(StokerError):
    """The scan found packages with known vulnerabilities. The list names them, and the versions that mend them where there are any."""

    exit_code = 69
    slug = "vulnerabilities-found"


class EngineFailed(StokerError):
    """podman, docker or skopeo refused. Its own last lines are in the message."""

    exit_code = 71
    slug = "engine-failed"


class CacheUnwritable(StokerError):
    """The cache folder (`STOKER_CACHE`, else `~/.cache/stoker`) is read-only or another user's."""

    exit_code = 72
    slug = "cache-unwritable"


# --- starting containers --------------------------------------------------------------------------------------------


class EngineMissing(StokerError):
    """The container engine that was asked for is not installed. `--engine local` starts the same thing without one."""

    exit_code = 73
    slug = "engine-missing"


class EngineSilent(StokerError):
    """The container engine is installed and does not answer: its daemon is down, or this user may not talk to it. The message has its words."""

    exit_code = 74
    slug = "engine-silent"


class ImageMissing(StokerError):
    """No engine of this machine has an image of that name. Stoker pulls nothing: `stoker image build` makes one, or the engine fetches it."""

    exit_code = 75
    slug = "image-missing"


class ContainerMissing(StokerError):
    """Stoker started nothing of that name, or it was removed in the meantime. The nearest name is in the hint; `stoker ps -a` lists them all."""

    exit_code = 76
    slug = "container-missing"


class NameTaken(StokerError):
    """Another container already has this name. `stoker rm NAME` removes it, `--name` gives the new one another name."""

    exit_code = 77
    slug = "name-taken"


class StartRefused(StokerError):
    """A check before the start found what would make it fail. The message is the first finding; all of them are listed, each with its fix."""

    exit_code = 78
    slug = "start-refused"


class MountRefused(StokerError):
    """A folder or file is not mounted: it is not there, or it would hand over the machine (`/`, the engine's socket, the whole home folder)."""

    exit_code = 79
    slug = "mount-refused"


class NotReady(StokerError):
    """What was started runs but did not answer in time. The last lines of its log are in the message; `stoker logs NAME` shows the rest."""

    exit_code = 80
    slug = "not-ready"


class LimitRefused(StokerError):
    """A limit (memory, CPUs, shared memory, processes) is more than this machine has, or less than a program can start with."""

    exit_code = 81
    slug = "limit-refused"


class PortTaken(StokerError):
    """The port that was asked for is in use on this machine, and it was named, so that no other is taken in its place."""

    exit_code = 82
    slug = "port-taken"


class LaunchUnfit(StokerError):
    """The image has not what was asked for (no notebook, no SSH server, no entry point of Stoker's), or the engine cannot do it.

    Or a container that does not run should.
    """

    exit_code = 83
    slug = "launch-unfit"


class ProgramMissing(StokerError):
    """The program that was to be run does not exist or cannot be executed. The exit code is the shell's own for it."""

    exit_code = 127
    slug = "program-missing"


# --- being stopped --------------------------------------------------------------------------------------------------


class Interrupted(StokerError):
    """Ctrl-C: the training saved a checkpoint and ended."""

    exit_code = 130
    slug = "interrupted"


class Terminated(StokerError):
    """SIGTERM (a scheduler's preemption, `stop`): the training saved a checkpoint and ended."""

    exit_code = 143
    slug = "terminated"


class Bug(StokerError):
    """Stoker itself failed. A report that is ready to paste was written."""

    exit_code = 70
    slug = "bug"


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str | None:
    """Return the known name that is most like `name`, or None when none is like it."""
    import difflib

    found = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return found[0] if found else None
