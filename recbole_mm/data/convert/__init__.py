"""Other layouts of data sets, to ours and back."""
