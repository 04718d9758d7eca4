"""Commands of studies: what a network relies on, how two differ, how it learned, what readers say."""
