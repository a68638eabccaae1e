"""Running graphs on one machine: executor, back-ends, dataset readers, the Ray actor."""

from pathlib import Path

import graphir

if Path(graphir.__file__).parent.parent.resolve() != Path(__file__).parent.parent.resolve():
    raise ImportError(
        f"graphir comes from {graphir.__file__} but workers from {__file__}: another distribution installs a package "
        "of the same name; uninstall it, or put gradfleet into an environment of its own"
    )
