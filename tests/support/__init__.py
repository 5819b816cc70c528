"""What tests hand to the floors instead of the real disk and the real clock."""
