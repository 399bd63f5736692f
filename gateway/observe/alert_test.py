"""`seawall alerts test`: one message to each target of a configuration."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from gateway.config import ConfigError, load_config
from gateway.observe.alert_targets import delivery_report


def run(config_path: Path) -> int:
    """Prints what each target did. Returns the exit code: 2 bad configuration, 1 a target failed or there is none."""
    try:
        config = load_config(config_path)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 2
    if not config.alerts.targets:
        print("alerts.targets is empty: there is nobody to tell", file=sys.stderr)
        return 1
    host = socket.gethostname()
    try:
        report = delivery_report(config.alerts.targets, f"Seawall on {host}: test", "A test message; nothing is wrong.")
    except ImportError:
        print("apprise is not installed: pip install 'seawall[alerts]'", file=sys.stderr)
        return 1
    for name, reason in report.items():
        print(f"{name}: {'sent' if reason is None else reason}")
    return 1 if any(reason is not None for reason in report.values()) else 0
