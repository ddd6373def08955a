"""Starting things right: notebooks, SSH boxes and programs in containers of podman and docker, or on this machine."""
