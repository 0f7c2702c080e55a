"""Run a stage from the command line: options, their help, options files, exit statuses."""
