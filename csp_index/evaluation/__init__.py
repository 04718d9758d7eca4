"""How faithful labels are: the metrics, and the evaluation that combines them."""
