"""Attention over a packed step: reads a plan of slot runs, knows nothing of branches."""
