"""Documents of studies: classes, effects, audits, comparisons, evolutions, meanings, reviews; with their shapes."""
