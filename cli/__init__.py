"""The sub-commands of `lmaas`. Heavy libraries are imported inside the commands that need them."""
