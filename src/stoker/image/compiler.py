"""The program that the image's own Python runs to compile sources to bytecode: sources on standard input, results on standard output.

It is run as a text of its own (`python -c`), by any Python from 3.8 on, and imports nothing of Stoker. Both streams are made of a number
of 4 bytes (big endian) and as many bytes. In: batches, each the number of its modules, then the path and the source of each. Out: the
bytecode of each module in the same order, or nothing where it does not compile.

Which strings are interned already decides in places whether two equal ones become one object, and so the bytes (seen in Python 3.13,
in a process that held the `__qualname__` of a class within a function). So each batch is compiled in a child of its own, forked from a
process that never compiled anything: the bytes depend on the batch and on Python, and not on what was compiled before. (A child for
each module would do the same, and costs more than the compiling: 3.5 ms.)
"""

import importlib.util
import marshal
import os
import signal
import sys
import warnings
from types import CodeType


def main() -> None:
    """Answer until the input ends."""
    warnings.simplefilter("ignore")
    taken = sys.stdin.buffer
    while (count := taken.read(4)) and len(count) == 4:
        batch = [(_read(taken).decode("utf-8"), _read(taken)) for _ in range(int.from_bytes(count, "big"))]
        # Nested so deeply that Python itself fell over: the others of the batch one by one, and that one as any file that does not compile.
        if not _compile_apart(batch):
            for module in batch:
                if not _compile_apart([module]):
                    _write([b""])


def bytecode(source, path):  # type: ignore[no-untyped-def]
    """Return the content of the .pyc of a module, or b"" where it does not compile."""
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        # Test data, templates, other dialects: Python reads such a file only if somebody imports it, and then says why it cannot.
        return b""
    # marshal writes an object that is referred to once in another way than one that others (interned names of other modules, say)
    # refer to as well. With a second reference to each name and constant, none is ever the only one.
    held: list[object] = []
    _hold(code, held)
    content = marshal.dumps(code)
    # PEP 552: flags 1 for a hash of the source instead of its time, and 2 to have it checked at each import.
    return importlib.util.MAGIC_NUMBER + (3).to_bytes(4, "little") + importlib.util.source_hash(source) + content


def _hold(value, held):  # type: ignore[no-untyped-def]
    """Keep a reference to all that a code object consists of, as far as it may be shared between modules."""
    held.append(value)
    if isinstance(value, CodeType):
        held += (value.co_name, value.co_filename, getattr(value, "co_qualname", None))
        for names in (value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars):
            held += names
        for constant in value.co_consts:
            _hold(constant, held)
    elif isinstance(value, (tuple, frozenset)):
        for part in value:
            _hold(part, held)


def _compile_apart(batch):  # type: ignore[no-untyped-def]
    """Compile modules in a child and say the results; False: Python crashed, and nothing was said."""
    child = os.fork()
    if not child:
        status = 1
        try:
            _write([bytecode(source, path) for path, source in batch])
            status = 0
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS):
        return False
    if status:
        sys.exit(f"compiling ended with status {status}, at one of: {', '.join(path for path, _ in batch)[:2000]}")
    return True


def _read(stream):  # type: ignore[no-untyped-def]
    return stream.read(int.from_bytes(stream.read(4), "big"))


def _write(pieces):  # type: ignore[no-untyped-def]
    """Say pieces, whole and at once: all children write to one stream."""
    left = memoryview(b"".join(len(piece).to_bytes(4, "big") + piece for piece in pieces))
    while left:
        left = left[os.write(1, left) :]


if __name__ == "__main__":
    main()
