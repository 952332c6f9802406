"""Commands of the command line, callable from Python: `main(config)`."""
