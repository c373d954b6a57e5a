"""What a trained model gives: lists, scores and vectors."""
