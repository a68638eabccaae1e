"""From a job to placed tasks: partition, plan, placement, job state, drivers, service and command line."""
