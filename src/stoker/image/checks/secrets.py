"""Secrets that do not belong into an image: keys, tokens, passwords, histories. Only their kind and place is ever told."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Between the lines of a key; in JSON they are two letters: so cloud providers hand out the keys of service accounts.
_BREAK = rb"(?:\s|\\[rn]){1,40}"
# Marks that begin a secret. Each is the prefix that the issuer documents, so that scanners find it.
_TOKENS = {
    "a private key": rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----%b"
    rb"(?:[A-Za-z0-9+/=]{40}|(?:[A-Za-z0-9+/=][A-Za-z0-9+/=:,\- ]{0,200}%b){2})|PuTTY-User-Key-File-[23]: |AGE-SECRET-KEY-1[A-Z0-9]{50,}"
    % (_BREAK, _BREAK),
    "an AWS access key": rb"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z2-7]{16}(?![A-Za-z0-9])"
    rb"|(?i:aws_secret_access_key)['\"]?\s*[=:]\s*['\"]?[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])",
    "a GitHub token": rb"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})",
    "a GitLab token": rb"(?<![A-Za-z0-9])glpat-[A-Za-z0-9_-]{20,}",
    "a Hugging Face token": rb"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{34}(?![A-Za-z0-9])",
    "a PyPI token": rb"pypi-AgE[A-Za-z0-9_-]{50,}",
    "a Slack token": rb"(?<![A-Za-z0-9])xox[abprs]-[A-Za-z0-9-]{20,}",
    "an OpenAI or Anthropic key": rb"(?<![A-Za-z0-9])sk-(?:proj-|ant-|svcacct-)[A-Za-z0-9_-]{32,}",
    "an OpenAI key": rb"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{16,}T3BlbkFJ[A-Za-z0-9_-]{16,}",
    "a Stripe key": rb"(?<![A-Za-z0-9])[rs]k_live_[A-Za-z0-9]{20,}",
    "an npm token": rb"(?<![A-Za-z0-9])npm_[A-Za-z0-9]{36}(?![A-Za-z0-9])",
    "a Docker Hub token": rb"(?<![A-Za-z0-9])dckr_[po]at_[A-Za-z0-9_-]{20,}",
    "a Google API key": rb"(?<![A-Za-z0-9])AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])",
}
_SIGNS = {kind: re.compile(pattern) for kind, pattern in _TOKENS.items()}
_QUICK = re.compile(
    rb"PRIVATE KEY|PuTTY-User|AGE-SECRET|AKIA|ASIA|(?i:aws_secret)|gh[pousr]_|github_pat_|glpat-|hf_|pypi-AgE|xox[abprs]-|sk-|k_live_|npm_|dckr_|AIza"
)
"""Most files hold none of these: one search instead of thirteen."""
_LOGIN = re.compile(rb"://[^/\s:@'\"$]+:(?![$<{])[^/\s@'\"]+@")
_AUTH = re.compile(rb'"(?:auth|identitytoken|password)"\s*:\s*"[^"]+"')
_PACKAGE_SETTINGS = re.compile(r"(.*/)?(pip\.conf|uv\.toml|\.condarc|\.npmrc)|etc/apt/(sources\.list|auth\.conf)(\.d/.*)?|etc/environment")

# Files that are secret by what they are, whatever is in them.
_NAMES = {
    "a shell history": r"(.*/)?\.(bash|zsh|ash|python|node_repl|psql|mysql|sqlite)_history|(.*/)?\.(histfile|lesshst)",
    "passwords of servers": r"(.*/)?(\.netrc|_netrc|\.pgpass|\.git-credentials|\.pypirc)|etc/apt/auth\.conf",
    "keys that may log in": r"(.*/)?(\.ssh|etc/ssh)/(.*/)?authorized_keys2?(\.d/.*)?",
    "an SSH key": r"(.*/)?\.ssh/(id_[a-z0-9_]+|identity)|etc/ssh/ssh_host_[a-z0-9]+_key",
    "cloud credentials": r"(.*/)?(\.aws/credentials|\.azure/accessTokens\.json|(\.kaggle|kaggle)/kaggle\.json|\.kube/config)"
    r"|(.*/)?\.config/gcloud/(credentials\.db|application_default_credentials\.json)",
    "a Hugging Face token": r"(.*/)?(\.cache/huggingface|\.huggingface)/(token|stored_tokens)",
    "a notebook's token": r"(.*/)?\.stoker/notebook/token|run/stoker/token",
    "settings with secrets": r"(.*/)?\.env(\.(local|production|development))?",
    "a Git repository": r"(.*/)?\.git/(HEAD|config)",
}
_BY_NAME = {kind: re.compile(pattern) for kind, pattern in _NAMES.items()}
_REGISTRY_LOGINS = re.compile(r"(.*/)?(\.docker/config\.json|containers/auth\.json|\.dockercfg)")
# Of variables: the whole word, so that TOKENIZERS_PARALLELISM and KEYMAP are none.
_SECRET_VARIABLE = re.compile(
    r"(^|_)((PG)?PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|CREDENTIALS?)(_|$)|(^|_)(SSH)?PASS$|^MYSQL_PWD$",
    re.IGNORECASE,
)
_PLACE_VARIABLE = re.compile(r"_(FILE|PATH|DIR)$", re.IGNORECASE)


def signs_of(path: str, text: bytes) -> tuple[str, ...]:
    """Return the kinds of secrets that a file looks like, by its name and by its text (empty: it was not read)."""
    found = [kind for kind, pattern in _BY_NAME.items() if pattern.fullmatch(path)]
    if _QUICK.search(text):
        found += [kind for kind, pattern in _SIGNS.items() if pattern.search(text)]
    if _PACKAGE_SETTINGS.fullmatch(path) and _LOGIN.search(text):
        found.append("a password in an address")
    if _REGISTRY_LOGINS.fullmatch(path) and _AUTH.search(text):
        found.append("a registry's password")
    return tuple(dict.fromkeys(found))


def secret_variables(variables: Mapping[str, str]) -> list[str]:
    """Return the names of the variables whose value is a secret, by their names or by the look of the value."""
    return sorted(
        name
        for name, value in variables.items()
        if value
        and (
            (_SECRET_VARIABLE.search(name) and not _PLACE_VARIABLE.search(name) and not value.startswith("/"))
            or _LOGIN.search(value.encode())
            or any(pattern.search(value.encode()) for pattern in _SIGNS.values())
        )
    )
