"""Images or arrays through models into shards: commit and recovery, on one machine or with Ray."""
