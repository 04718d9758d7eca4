"""Image files: which are pictures, containers of many, files of object stores, and upright pixels of one."""
