"""One module for each revision; CONTRIBUTING.md says how to add one."""
