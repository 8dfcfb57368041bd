"""Where records, alerts and bundles leave. The only rooms that know MLflow or speak HTTP."""
