"""Files outside the tables of an index: NumPy arrays, regular files, folders of code, object stores."""
