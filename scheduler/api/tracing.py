"""OpenTelemetry traces, if the environment names where they should go; its libraries are loaded only then.

The variables are OpenTelemetry's own: OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, and those beside
them for headers, sampling and resources.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import Any

from graphir.errors import MissingExtraError
from scheduler import telemetry

VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def start(environment: Mapping[str, str]) -> Callable[[], None]:
    """Trace from now on, where an endpoint is named; gives what sends the rest and ends it."""
    if not any(environment.get(name) for name in VARIABLES):
        return lambda: None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.propagate import extract
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise MissingExtraError(
            f"{VARIABLES[0]} is set, but {error.name} is not installed; pip install 'gradfleet[otel]', or unset it"
        ) from error
    facts = {"service.name": "gradfleet", "service.version": version("gradfleet")}
    named = {} if "OTEL_SERVICE_NAME" in environment else facts
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    telemetry.trace_with(_spans(provider.get_tracer("gradfleet"), extract))

    def end() -> None:
        telemetry.trace_with(None)
        provider.shutdown()

    return end


def _spans(tracer: Any, extract: Callable[[Mapping[str, str]], Any]) -> telemetry.Tracer:
    def span(name: str, attributes: Mapping[str, str], sent: Mapping[str, str] | None) -> AbstractContextManager[Any]:
        outside = None if sent is None else extract(sent)
        made: AbstractContextManager[Any] = tracer.start_as_current_span(name, outside, attributes=attributes)
        return made

    return span
