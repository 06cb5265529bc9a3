"""Training loops behind `bench train`: small classifiers and small score networks."""
