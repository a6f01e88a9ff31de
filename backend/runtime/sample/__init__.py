"""From logits to a token: penalties, filters, and noise keyed by position."""
