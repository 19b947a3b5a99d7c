"""What several tests need: `support.collector` runs the local collector and looks into it."""
