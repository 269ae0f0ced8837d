"""The HTTP client of the API, for the command line and for what measures. It imports no other room."""
