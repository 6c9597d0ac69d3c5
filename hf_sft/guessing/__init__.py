"""What an unknown data set is for, and which settings suit it: what `hf-sft init` writes down."""
