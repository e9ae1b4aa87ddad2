"""Documents, and the peers that share them."""
