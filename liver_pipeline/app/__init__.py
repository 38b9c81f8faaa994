"""What people see in a browser: the source of the viewer's page, and the app around it."""
