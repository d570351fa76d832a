"""Self-supervised base methods: who predicts, what is predicted, how wrong per sample."""
