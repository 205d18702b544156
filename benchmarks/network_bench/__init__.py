"""What `networks.py` is made of."""
