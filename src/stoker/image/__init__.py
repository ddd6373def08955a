"""Images: `stoker.toml` -> `stoker.lock` -> layers -> OCI layout, without a daemon, a registry or root; the same bytes everywhere."""
