"""The Hub: what is checked before a run, what is pushed after it, and recipes that lie there."""
