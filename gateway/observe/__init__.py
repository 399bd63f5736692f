"""What operators see: metrics, logs, error statistics and the stories of recent requests."""
