"""What the experiments share: errors of one line, files, records of runs, locks, statistics, parts of reports."""
