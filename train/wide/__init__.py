"""Wide strip made of small pictures: what a strip camera sees, with its truth, for training and for tests."""
