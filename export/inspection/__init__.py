"""What a file or folder is, without running or changing it: one file here for each kind of thing."""
