"""From a command line to a stage: options, their help, files of options, exit statuses."""
