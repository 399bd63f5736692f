"""Writes dashboards/seawall.json with Grafana's own builders, whose types are generated from Grafana's schema.

pip install grafana-foundation-sdk
python deploy/grafana/build.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, statetimeline, timeseries
from grafana_foundation_sdk.builders import stat as stats
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

OUT = Path(__file__).parent / "dashboards" / "seawall.json"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_ROUTE = 'instance=~"$instance",route=~"$route"'
_BACKEND = 'instance=~"$instance",backend=~"$backend"'
_BOTH = 'instance=~"$instance",route=~"$route",backend=~"$backend"'
_HERE = 'instance=~"$instance"'
_UNSENT = _HERE + ',result!="{}"'
_PROCESS = 'job=~".*seawall.*",instance=~"$instance"'
_OURS = (
    "generation_failed|backend_unreachable|model_overloaded|model_loading|model_loading_failed"
    "|inference_timeout|out_of_memory|internal_error"
)
_FAILING = f'{_ROUTE},error_type=~"{_OURS}"'
_FAILED = f'{_BOTH},outcome!~"ok|beaten"'
#: (PromQL, legend) of one line or group of lines.
Queries = Sequence[tuple[str, str]]


def rate(name: str, by: str, selector: str) -> str:
    return f"sum by ({by}) (rate({name}{{{selector}}}[$__rate_interval]))"


def increase(name: str, by: str, selector: str) -> str:
    return f"sum by ({by}) (increase({name}{{{selector}}}[$__rate_interval]))"


def per_request(name: str, selector: str = _ROUTE) -> str:
    return f"{rate(name, 'route', selector)} / {rate('seawall_requests_total', 'route', _ROUTE)}"


def quantile(share: float, name: str, by: str = "route", selector: str = _ROUTE) -> str:
    return f"histogram_quantile({share}, {rate(f'{name}_bucket', f'le, {by}', selector)})"


def quantiles(name: str) -> Queries:
    return [(quantile(share, name), f"{{{{route}}}} p{round(share * 100)}") for share in (0.5, 0.95, 0.99)]


def target(expression: str, legend: str, letter: str, *, exemplars: bool = False) -> prometheus.Dataquery:
    query = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(letter).datasource(SOURCE)
    return query.range().exemplar(exemplars)


def lines(
    title: str, description: str, unit: str, queries: Queries, *, width: int = 8, exemplars: bool = False
) -> timeseries.Panel:
    panel = timeseries.Panel().title(title).description(description).unit(unit).datasource(SOURCE)
    panel = panel.span(width).height(8).min(0).fill_opacity(8).line_width(1).show_points(options.VisibilityMode.NEVER)
    legend = common.VizLegendOptions().display_mode(options.LegendDisplayMode.LIST).show_legend(True)
    panel = panel.legend(legend.placement(options.LegendPlacement.BOTTOM))
    panel = panel.tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI))
    for number, (expression, name) in enumerate(queries):
        panel = panel.with_target(target(expression, name, chr(ord("A") + number), exemplars=exemplars))
    return panel


def number(
    title: str, description: str, unit: str, query: str, steps: Sequence[tuple[float | None, str]]
) -> stats.Panel:
    thresholds = dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE)
    thresholds = thresholds.steps([Threshold(value=value, color=colour) for value, colour in steps])
    panel = stats.Panel().title(title).description(description).unit(unit).datasource(SOURCE).span(4).height(4)
    return panel.thresholds(thresholds).with_target(target(query, "", "A"))


def states(
    title: str, description: str, query: str, legend: str, names: Sequence[tuple[str, str]]
) -> statetimeline.Panel:
    mapping = ValueMap(
        options={
            str(value): ValueMappingResult(text=text, color=colour, index=value)
            for value, (text, colour) in enumerate(names)
        }
    )
    panel = statetimeline.Panel().title(title).description(description).datasource(SOURCE).span(12).height(8)
    panel = panel.mappings([mapping]).merge_values(True).fill_opacity(80).min(0).max(len(names) - 1)
    return panel.with_target(target(query, legend, "A"))


def spread(title: str, description: str, name: str) -> heatmap.Panel:
    query = target(rate(f"{name}_bucket", "le", _ROUTE), "{{le}}", "A", exemplars=True).format(PromQueryFormat.HEATMAP)
    panel = heatmap.Panel().title(title).description(description).datasource(SOURCE).span(12).height(8)
    return panel.calculate(False).with_target(query)


def variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    built = dashboard.QueryVariable(name).label(label).datasource(SOURCE).query(query)
    built = built.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)
    return built.multi(True).include_all(True).all_value(".*")


def overview(board: dashboard.Dashboard) -> dashboard.Dashboard:
    failing = f"sum(rate(seawall_errors_total{{{_FAILING}}}[$__rate_interval]))"
    asked = f"sum(rate(seawall_requests_total{{{_ROUTE}}}[$__rate_interval]))"
    board = board.with_row(dashboard.Row("Now"))
    good_bad = [(None, "green"), (0.005, "orange"), (0.05, "red")]
    for panel in (
        number("Requests", "Requests finished, a second.", units.RequestsPerSecond, asked, [(None, "blue")]),
        number(
            "Failing",
            "Share that failed for want of a good answer.",
            units.PercentUnit,
            f"{failing} / {asked}",
            good_bad,
        ),
        number(
            "In flight",
            "Requests under way.",
            units.Short,
            f"sum(seawall_requests_in_flight{{{_ROUTE}}})",
            [(None, "blue")],
        ),
        number(
            "Backends healthy",
            "As active probes find them.",
            units.PercentUnit,
            f"avg(seawall_endpoint_healthy{{{_BACKEND}}})",
            [(None, "red"), (0.99, "green")],
        ),
        number(
            "Circuits open",
            "Backends that get no requests now.",
            units.Short,
            f"count(seawall_endpoint_breaker_state{{{_BACKEND}}} == 2) or vector(0)",
            [(None, "green"), (1, "red")],
        ),
        number(
            "In line",
            "Requests waiting for a free slot.",
            units.Short,
            f"sum(seawall_queue_length{{{_ROUTE}}})",
            [(None, "green"), (1, "orange")],
        ),
    ):
        board = board.with_panel(panel)
    return board


def requests(board: dashboard.Dashboard) -> dashboard.Dashboard:
    share = per_request("seawall_errors_total", _FAILING)
    board = board.with_row(dashboard.Row("Requests"))
    for panel in (
        lines(
            "Requests by outcome",
            "ok or the error_type of the answer.",
            units.RequestsPerSecond,
            [(rate("seawall_requests_total", "outcome", _ROUTE), "{{outcome}}")],
        ),
        lines(
            "Failing share",
            "Requests that failed for want of a good answer; the objective allows 0.5 %.",
            units.PercentUnit,
            [(share, "{{route}}")],
        ),
        lines(
            "Answers by status",
            "What clients were sent.",
            units.RequestsPerSecond,
            [(rate("seawall_http_responses_total", "code", _HERE), "{{code}}")],
        ),
        lines(
            "Time to first token",
            "From the request's head to the first content of its answer.",
            units.Seconds,
            quantiles("seawall_time_to_first_token_seconds"),
            exemplars=True,
        ),
        lines(
            "Time per output token",
            "Between a stream's tokens after its first.",
            units.Seconds,
            quantiles("seawall_time_per_output_token_seconds"),
        ),
        lines(
            "Tokens",
            "As backends counted them.",
            units.Short,
            [(rate("seawall_tokens_total", "route, kind", _ROUTE), "{{route}} {{kind}}")],
        ),
        spread(
            "Duration",
            "From the request's head to the end of its answer. Points are exemplars: a request's correlation ID.",
            "seawall_request_duration_seconds",
        ),
        spread("First token", "As a heatmap, with exemplars.", "seawall_time_to_first_token_seconds"),
    ):
        board = board.with_panel(panel)
    return board


def resilience(board: dashboard.Dashboard) -> dashboard.Dashboard:
    board = board.with_row(dashboard.Row("Resilience"))
    for panel in (
        lines(
            "Attempts per request",
            "What retrying adds to the backends' load.",
            units.Short,
            [(per_request("seawall_attempts_total"), "{{route}}")],
        ),
        lines(
            "Retries and hedges",
            "Attempts after the first; of those the hedged ones; and retries that the budget forbade.",
            units.Short,
            [
                (rate("seawall_retries_total", "route", _ROUTE), "{{route}} retries"),
                (rate("seawall_hedges_total", "route", _ROUTE), "{{route}} hedges"),
                (rate("seawall_retry_budget_exhausted_total", "route", _ROUTE), "{{route}} budget spent"),
            ],
        ),
        lines(
            "Share that went to a fallback",
            "Answered by a lesser tier.",
            units.PercentUnit,
            [(per_request("seawall_fallbacks_total"), "{{route}}")],
        ),
        lines(
            "Broken streams",
            "Gone on with elsewhere, or ended in an error.",
            units.Short,
            [
                (rate("seawall_stream_resumes_total", "outcome", _ROUTE), "resumed: {{outcome}}"),
                (rate("seawall_stream_interrupted_total", "reason", _ROUTE), "ended: {{reason}}"),
            ],
        ),
        lines(
            "Wasted work",
            "Seconds a second that backends spent on answers for nobody.",
            units.Short,
            [(rate("seawall_wasted_seconds_total", "cause", _ROUTE), "{{cause}}")],
        ),
        lines(
            "Requests made smaller",
            "For pressure, or after out_of_memory; and faults made on purpose.",
            units.Short,
            [
                (rate("seawall_reduced_total", "route, cause", _ROUTE), "{{route}} {{cause}}"),
                (rate("seawall_faults_injected_total", "route, fault", _ROUTE), "{{route}} fault: {{fault}}"),
            ],
        ),
        states(
            "Degradation",
            "How far requests are made smaller.",
            f"max by (route) (seawall_degradation_level{{{_ROUTE}}})",
            "{{route}}",
            [("full", "green"), ("reduced", "orange"), ("minimal", "red")],
        ),
        states(
            "Circuits",
            "Of each backend.",
            f"max by (backend) (seawall_endpoint_breaker_state{{{_BACKEND}}})",
            "{{backend}}",
            [("closed", "green"), ("half open", "orange"), ("open", "red")],
        ),
    ):
        board = board.with_panel(panel)
    return board


def backends(board: dashboard.Dashboard) -> dashboard.Dashboard:
    board = board.with_row(dashboard.Row("Backends"))
    for panel in (
        states(
            "Health",
            "As active probes find it.",
            f"min by (backend) (seawall_endpoint_healthy{{{_BACKEND}}})",
            "{{backend}}",
            [("down", "red"), ("healthy", "green")],
        ),
        states(
            "Service",
            "What operators have said.",
            f"max by (backend) (seawall_endpoint_service{{{_BACKEND}}})",
            "{{backend}}",
            [("active", "green"), ("draining", "orange"), ("ejected", "red")],
        ),
        lines(
            "Attempts by backend",
            "All outcomes.",
            units.RequestsPerSecond,
            [(rate("seawall_attempts_total", "backend", _BOTH), "{{backend}}")],
        ),
        lines(
            "Failed attempts",
            "Most of them hidden from clients by another attempt.",
            units.RequestsPerSecond,
            [(rate("seawall_attempts_total", "backend, outcome", _FAILED), "{{backend}} {{outcome}}")],
        ),
        lines(
            "In flight and limit",
            "Attempts under way, and how many there may be.",
            units.Short,
            [
                (f"sum by (backend) (seawall_endpoint_in_flight{{{_BACKEND}}})", "{{backend}}"),
                (f"sum by (backend) (seawall_endpoint_concurrency_limit{{{_BACKEND}}})", "{{backend}} limit"),
            ],
        ),
        lines(
            "Circuit changes",
            "By the state it came to.",
            units.Short,
            [
                (
                    increase("seawall_endpoint_breaker_transitions_total", "backend, to", _BACKEND),
                    "{{backend}} {{to}}",
                )
            ],
        ),
        lines(
            "Probe duration",
            "Of the latest active probe.",
            units.Seconds,
            [(f"max by (backend) (seawall_endpoint_probe_duration_seconds{{{_BACKEND}}})", "{{backend}}")],
        ),
        lines(
            "In line",
            "Requests waiting for a free slot.",
            units.Short,
            [(f"sum by (route) (seawall_queue_length{{{_ROUTE}}})", "{{route}}")],
        ),
        lines(
            "Wait in line",
            "95th percentile of those that waited.",
            units.Seconds,
            [(quantile(0.95, "seawall_queue_wait_seconds"), "{{route}}")],
        ),
        lines(
            "Turned away",
            "Could not wait, or waited in vain.",
            units.Short,
            [(rate("seawall_shed_total", "route, reason", _ROUTE), "{{route}} {{reason}}")],
        ),
    ):
        board = board.with_panel(panel)
    return board


def process(board: dashboard.Dashboard) -> dashboard.Dashboard:
    lost = [
        (rate("seawall_log_lines_dropped_total", "instance", _HERE), "{{instance}} log lines"),
        (
            rate("seawall_trace_spans_total", "instance, result", _UNSENT.format("exported")),
            "{{instance}} spans {{result}}",
        ),
        (
            rate("seawall_alert_messages_total", "instance, result", _UNSENT.format("sent")),
            "{{instance}} alerts {{result}}",
        ),
    ]
    overhead = [
        (quantile(share, "seawall_overhead_seconds", "instance"), f"{{{{instance}}}} p{round(share * 100)}")
        for share in (0.5, 0.99)
    ]
    board = board.with_row(dashboard.Row("Seawall itself"))
    for panel in (
        lines("Overhead", "Time a request spends in Seawall, without backends and waits.", units.Seconds, overhead),
        lines(
            "CPU",
            "Cores in use.",
            units.Short,
            [(f"rate(process_cpu_seconds_total{{{_PROCESS}}}[$__rate_interval])", "{{instance}}")],
        ),
        lines("Memory", "In RAM.", units.BytesIEC, [(f"process_resident_memory_bytes{{{_PROCESS}}}", "{{instance}}")]),
        lines(
            "File descriptors",
            "Share of those allowed.",
            units.PercentUnit,
            [(f"process_open_fds{{{_PROCESS}}} / process_max_fds{{{_PROCESS}}}", "{{instance}}")],
        ),
        lines("Lost", "Log lines, spans and alert messages that did not arrive, a second.", units.Short, lost),
        lines(
            "Worker processes",
            "That serve, and that were started again after one died.",
            units.Short,
            [
                (f"max by (instance) (seawall_workers{{{_HERE}}})", "{{instance}}"),
                (increase("seawall_worker_restarts_total", "instance", _HERE), "{{instance}} restarts"),
            ],
        ),
        lines(
            "Reloads",
            "Changed configurations by what became of them.",
            units.Short,
            [
                (
                    increase("seawall_reloads_total", "instance, result", _HERE),
                    "{{instance}} {{result}}",
                )
            ],
        ),
    ):
        board = board.with_panel(panel)
    return board


def build() -> str:
    """The dashboard as JSON."""
    board = dashboard.Dashboard("Seawall").uid("seawall").tags(["seawall", "llm"]).refresh("30s").time("now-3h", "now")
    board = board.description("Requests, resilience, backends and the gateway itself. Metrics: docs/metrics.md.")
    board = board.readonly().tooltip(DashboardCursorSync.CROSSHAIR)
    board = board.with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    board = board.with_variable(variable("instance", "Instance", "label_values(seawall_build_info, instance)"))
    board = board.with_variable(variable("route", "Route", "label_values(seawall_requests_total, route)"))
    board = board.with_variable(variable("backend", "Backend", "label_values(seawall_endpoint_healthy, backend)"))
    for part in (overview, requests, resilience, backends, process):
        board = part(board)
    return JSONEncoder(sort_keys=True, indent=1).encode(board.build()) + "\n"


if __name__ == "__main__":
    OUT.write_text(build(), "utf-8")
