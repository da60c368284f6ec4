"""PRIVate fEderated Tuning."""
