"""The door by which PyTorch lets Stoker in: an entry point of its group `torch.backends`, called at the end of `import torch`."""

from os import environ


def open_door() -> None:
    """Switch boost on if the environment asks for it. Raises nothing: what it raised would end `import torch`."""
    if not (environ.get("STOKER_BOOST") or environ.get("STOKER_BOOST_RECORD")):
        return
    try:
        from stoker.boost.session import open_from_environment

        open_from_environment()
    except Exception as error:
        import contextlib
        import sys

        with contextlib.suppress(Exception):
            print(f"stoker boost: the door failed ({type(error).__name__}: {error}); the program goes on without it", file=sys.stderr, flush=True)
