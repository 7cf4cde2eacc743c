"""`localfirst bench`: how fast this disk and that server are, measured in seconds and drawn on the terminal."""
