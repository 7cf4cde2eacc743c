"""Measurements of localfirst beside other sessions and beside what the machine can do at all."""
