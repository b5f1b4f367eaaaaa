"""What runs on the driver: plan, execute, track, report."""
