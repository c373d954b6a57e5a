"""From raw content to feature files: pictures, text and sound through encoders."""
