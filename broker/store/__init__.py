"""The only place that knows Redis: keys, scripts, and what their replies mean."""
