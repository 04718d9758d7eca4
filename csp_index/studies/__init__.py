"""Questions about whole networks: what they rely on, how two differ, how one learned, what readers say of it."""
