"""What an index answers without running a model: SQL, results, status, one neuron and its card."""
