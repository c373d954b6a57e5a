"""What a shell is answered: one file per command, and `main`, which finds the command."""
