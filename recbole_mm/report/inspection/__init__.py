"""Are these features real? What the files of a data set hold, measured and shown."""
