"""Rows of files of any size, in and out, a chunk at a time: what `hf-sft predict` reads and writes."""
