"""The web demo: its page, who may ask for what, and the visits it serves."""
