"""Meta-learning: tasks, learners, adaptation."""
