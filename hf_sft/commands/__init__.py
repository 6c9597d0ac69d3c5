"""The commands before and after a run: each works on a recipe, a saved model or a finished run."""
