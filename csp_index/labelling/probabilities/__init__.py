"""How likely labels are to be right: features of labels, and regressions on them that were fitted on known truths."""
