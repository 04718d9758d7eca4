"""HTTP: guard, sign-in, routes, pages, caching of answers, and the log of requests."""
