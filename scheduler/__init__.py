"""From job to placed tasks: partition, plan, job state, drivers, the embedded service and the command line."""

from pathlib import Path

import workers

if Path(workers.__file__).parent.parent.resolve() != Path(__file__).parent.parent.resolve():
    raise ImportError(
        f"workers comes from {workers.__file__} but scheduler from {__file__}: another distribution installs a package "
        "of the same name; uninstall it, or put gradfleet into an environment of its own"
    )
