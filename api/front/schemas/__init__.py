"""What the routes take and answer beyond the tasks' own schemas."""
