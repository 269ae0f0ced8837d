"""Hugging Face folders of the GPT-2 family, read and checked without torch; start at `folder`."""
