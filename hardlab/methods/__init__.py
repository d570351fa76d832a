"""Self-supervised base methods: each defines who predicts, what is predicted, and the loss per sample."""
