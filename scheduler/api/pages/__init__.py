"""The page that a browser shows: jobs, and all there is to see of one. HTML made here; no build step, nothing from elsewhere."""
