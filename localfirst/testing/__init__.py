"""Help for testing code that uses localfirst: real servers, started and thrown away on demand."""
