"""The session classes of other frameworks, local-first; a module for each, which imports that one only if it must.

A program written for one of them goes on with its import line changed. Its conversations live on local disk then, with
the server that it names behind.
"""
