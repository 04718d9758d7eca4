"""What neurons do to a network's logits: exactly before a linear head, by ablation elsewhere."""
