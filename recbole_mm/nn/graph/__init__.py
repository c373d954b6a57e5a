"""Operations on user-item graphs and item graphs."""
