"""The environment variables that matter for GPUs, threads and Python; of secrets, only that they are there."""

from __future__ import annotations

import re
from collections.abc import Mapping

# What decides how torch, CUDA, NCCL, OpenMP and Python behave, and what tells that a launcher started us.
_RULES = re.compile(
    # the libraries
    r"(CUDA|CUDNN|CUBLAS|NVIDIA|NCCL|NVSHMEM|UCX|GLOO|PYTORCH|TRITON|DALI|HIP|ROCR|OMP|MKL|OPENBLAS|KMP|GOMP|BLIS|NUMEXPR|MALLOC|LD)_|TORCH|PYTHON|CUBLASLT_|"
    # the tools around them
    r"(CONDA|UV|PIP|JUPYTER|STOKER|APPTAINER|SINGULARITY|KUBERNETES)_|"
    # the launchers
    r"(SLURM|OMPI|PMI|PMIX|PBS|LSB|FLUX|JSM|RAY|SM|ACCELERATE|DEEPSPEED)_|"
    r"((LOCAL_|GROUP_|ROLE_|NODE_)?RANK|(LOCAL_)?WORLD_SIZE|MASTER_(ADDR|PORT)|AZUREML_RUN_ID|CLUSTER_SPEC"
    # folders, users, compilers
    r"|VIRTUAL_ENV|HOME|XDG_CACHE_HOME|TMPDIR|TMP|TEMP|USER|LOGNAME|container|CC|CXX|GLIBC_TUNABLES)$"
)
_SECRET = re.compile(
    r"(^|_)(TOKEN|SECRET|SECRETS|SECRET_KEY|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|ACCESS_KEY|SECRET_ACCESS_KEY|PRIVATE_KEY|ENCRYPTION_KEY|SIGNING_KEY|"
    r"AUTH_KEY|CREDENTIALS?|CONNECTION_STRING)$",
    re.IGNORECASE,
)
_SIGNED_IN = re.compile(r"://[^/\s@]*:[^/\s@]+@")
"""An address with a password in it: https://user:password@host."""
_HIDDEN = re.compile(r"^\((\d+) characters\)$")
_LONGEST = 2000


def gather_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that matter, sorted by name. The value of a secret becomes "(N characters)". Costs nothing."""
    found = {}
    for name, value in sorted(environ.items()):
        if _is_secret(name, value):
            found[name] = f"({len(value)} characters)"
        elif _RULES.match(name):
            found[name] = value[:_LONGEST]
    return found


def secrets(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the secrets among gathered variables; an empty one is none."""
    return tuple(name for name, value in variables.items() if (hidden := _HIDDEN.match(value)) and int(hidden[1]) > 0)


def _is_secret(name: str, value: str) -> bool:
    """A path or a switch in a variable that is called a secret is not one: GOOGLE_APPLICATION_CREDENTIALS=/run/key.json, X_PASSWORD=true."""
    if _SIGNED_IN.search(value):
        return True
    return bool(_SECRET.search(name)) and not value.startswith(("/", "./", "~/")) and value.lower() not in ("true", "false", "yes", "no")
